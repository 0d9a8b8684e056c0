"""Snapshots are restored whole or refused, only for their log and space, and survive crashes."""

import asyncio
import os
import random
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import orjson
import pytest

from contracts.errors import SnapshotRefused
from contracts.events.format_version import unknown_version
from contracts.events.record import TopicPartition
from contracts.metrics import Metrics
from contracts.ports.hit import VectorQuery
from contracts.space import Space
from contracts.testing.blob_store import MemoryBlobStore
from contracts.testing.clock import ManualClock
from contracts.topics import TARGETS
from index_store.index import Index
from index_store.segment.file_store import SegmentFileStore
from index_store.snapshot import store as module
from index_store.snapshot.store import SnapshotStore
from index_store.storage.local import LocalBlobStore
from streams.maintainer.snapshot_schedule import SnapshotSchedule
from tests.kits.index_kit import (
    IMAGES,
    NAMES,
    TOPIC_IDS,
    batch,
    built,
    filled,
    new_index,
    new_spill,
    put,
    record,
    snapshots_in,
    vectors,
)

pytestmark = pytest.mark.anyio

PREFIX = "unit-v1/0/0/"
QUERY = VectorQuery("images", vectors(1, seed=77)[0], k=1000, with_vector=False)


def some_index(rows: int = 100) -> Index:
    """Return an index of images, some of them deleted, and of captions with unusual characters."""
    index = filled(vectors(rows))
    index.apply(batch(*(record(rows + n, f"i{2 * n:04}", None) for n in range(30))))
    body = {"item": "p", "text": "ein\u2028Satz\n", "metadata": {"z": 1, "a": [None, "ü"]}}
    captions = [put(n, f"c/ü{n}", row, "captions", **body) for n, row in enumerate(vectors(5))]
    index.apply(batch(*captions))
    index.mark_caught_up(IMAGES, 123.5)
    return index


def change(index: Index) -> None:
    """Delete one row and append another, so that the next snapshot needs a new segment."""
    at = index.positions[IMAGES]
    index.apply(batch(record(at, "i0001", None), put(at + 1, f"n{at}", vectors(1, seed=at)[0])))


@pytest.mark.parametrize("kind", ["memory", "disk"])
async def test_a_restored_index_is_the_one_that_was_written(kind: str, tmp_path: Path) -> None:
    store = (
        MemoryBlobStore() if kind == "memory" else LocalBlobStore(tmp_path / "deep" / "snapshots")
    )
    snapshots, index = snapshots_in(store, PREFIX, kept=2), some_index()
    name = await snapshots.write(index)
    empty = new_index(growing_segment_rows=7)
    restored = await snapshots.restore(empty)
    assert restored is not None
    assert restored.digests_match()
    assert restored.digests() == index.digests()
    assert restored.as_of() == index.as_of()
    assert restored.positions == index.positions
    assert restored.caught_up_at == {IMAGES: 123.5}
    assert restored.highest_source("images", 0) == index.highest_source("images", 0) == 129
    assert restored.view.search([QUERY]) == index.view.search([QUERY])
    for item_id in ("c/ü0", "c/ü4"):
        before, after = index.get("captions", item_id), restored.get("captions", item_id)
        assert before is not None and after is not None
        assert (after.text, after.item, after.metadata) == (before.text, "p", before.metadata)
    assert empty.count("images") == 0
    assert snapshots.refused == {}
    await snapshots.verify(f"0/{name}", new_index())
    # The restored index applies further records as the original does.
    change(restored)
    change(index)
    assert restored.digests() == index.digests()


async def test_an_empty_index_can_be_written() -> None:
    snapshots = snapshots_in(MemoryBlobStore(), PREFIX, kept=1)
    await snapshots.write(new_index())
    restored = await snapshots.restore(new_index())
    assert restored is not None
    assert restored.count("images") == 0


async def test_nothing_to_restore() -> None:
    assert await snapshots_in(MemoryBlobStore(), PREFIX, kept=1).restore(new_index()) is None


class Two(NamedTuple):
    """A store with two snapshots; `new` are the blobs that only the second needs."""

    blobs: dict[str, bytes]
    new: list[str]
    names: list[str]
    digests: list[Any]


async def _two() -> Two:
    store, index, spill = MemoryBlobStore(), some_index(), new_spill()
    snapshots = SnapshotStore(store, PREFIX, spill, kept=2)
    names, digests = [await snapshots.write(index)], [index.digests()]
    old = {name for name in store.blobs if "/parts/" in name or names[0] in name}
    merge = index.begin_merge("images")
    index.commit_merge("images", merge, await built(index, "images", merge, spill, "IVF4,SQ8"))
    change(index)
    names.append(await snapshots.write(index))
    digests.append(index.digests())
    new = [name for name in store.blobs if name not in old and not name.endswith("pointer")]
    return Two(store.blobs, new, names, digests)


@pytest.fixture(scope="module")
def two() -> Two:
    return asyncio.run(_two())


def torn(data: bytes, dice: random.Random) -> bytes:
    """Return data of the right length whose second half was never written to the disk."""
    kept = len(data) // 2
    return data[:kept] + bytes(len(data) - kept)


def truncated(data: bytes, dice: random.Random) -> bytes:
    return data[: dice.randrange(len(data))]


def flipped(data: bytes, dice: random.Random) -> bytes:
    place, bit = dice.randrange(len(data)), 1 << dice.randrange(8)
    return data[:place] + bytes([data[place] ^ bit]) + data[place + 1 :]


def missing(data: bytes, dice: random.Random) -> None:
    return None


Harm = Callable[[bytes, random.Random], bytes | None]
HARMS: dict[Harm, str] = {
    torn: r"{blob}: the bytes are not those written \(SHA-256\)",
    truncated: r"{blob}: want \d+ bytes, got \d+",
    flipped: r"{blob}: the bytes are not those written \(SHA-256\)",
    missing: r"{blob}: missing",
}
MANIFEST_HARMS: dict[Harm, str] = {
    torn: r"{blob}: unreadable \(JSONDecodeError",
    truncated: r"{blob}: unreadable \(JSONDecodeError",
    flipped: r"{blob}: unreadable|{blob}: the bytes are not those written|format: this version",
    missing: r"{blob}: missing",
}


def harmed(two: Two, blob: str, harm: Harm, dice: random.Random) -> MemoryBlobStore:
    store = MemoryBlobStore()
    store.blobs = dict(two.blobs)
    data = harm(store.blobs.pop(blob), dice)
    if data is not None:
        store.blobs[blob] = data
    return store


@pytest.mark.parametrize("harm", HARMS, ids=lambda harm: harm.__name__)
@pytest.mark.parametrize(
    "blob", ["manifest.json", "alive", "vectors.faiss", "columns.safetensors", "ann.faiss"]
)
async def test_a_harmed_snapshot_is_refused_and_the_previous_used(
    blob: str, harm: Harm, two: Two
) -> None:
    dice = random.Random(f"{blob} {harm.__name__}")
    reason = (MANIFEST_HARMS if blob == "manifest.json" else HARMS)[harm]
    # Harm only blobs of the second snapshot: a blob that both need is in the store once.
    names = [name for name in two.new if name.endswith(f"/{blob}")]
    assert names
    for name in names * (20 if harm in (truncated, flipped) else 1):
        snapshots = snapshots_in(harmed(two, name, harm, dice), PREFIX, kept=2)
        restored = await snapshots.restore(new_index())
        assert restored is not None
        assert restored.digests() == two.digests[0]
        assert list(snapshots.refused) == [f"0/{two.names[1]}"]
        [told] = snapshots.refused.values()
        assert re.search(reason.format(blob=re.escape(blob)), told), told


@pytest.mark.parametrize(
    ("harm", "reason"),
    [
        (torn, r"name: want the digits of a snapshot's, got '\d+\\x00"),
        (truncated, r"0/\d+/manifest.json: missing|name: want the digits"),
        (flipped, r"0/\d+/manifest.json: missing|name: want the digits"),
        (missing, None),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
async def test_a_harmed_pointer_is_told_and_the_newest_used(
    harm: Harm, reason: str | None, two: Two
) -> None:
    dice = random.Random(harm.__name__)
    for _ in range(20):
        store = harmed(two, f"{PREFIX}pointer", harm, dice)
        snapshots = snapshots_in(store, PREFIX, kept=2)
        restored = await snapshots.restore(new_index())
        assert restored is not None
        assert restored.digests() == two.digests[1]
        assert len(snapshots.refused) == (reason is not None)
        for told in snapshots.refused.values():
            assert reason is not None
            assert re.match(reason, told), told


def resealed(store: MemoryBlobStore, name: str, change: Callable[[Any], None]) -> None:
    """Change a manifest and write its checksum again, as the writer of such a manifest would."""
    at = f"{PREFIX}{name}/manifest.json"
    manifest = module.manifests.read_manifest(store.blobs[at])
    change(manifest)
    store.blobs[at] = module.manifests.with_checksum(manifest)


def other_space(manifest: Any) -> None:
    manifest["space"] |= {"name": "other-v1", "fingerprint": "00"}


def other_topic(manifest: Any) -> None:
    manifest["topic_ids"][IMAGES.topic] = "another"


def other_partitions(manifest: Any) -> None:
    manifest["partitions"]["images"] = 2


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (other_space, r"space: want unit-v1 \(\w+\), got other-v1 \(00\)"),
        (other_topic, r"topic_ids: today .*'id-of-images'.*, the snapshot has .*'another'"),
        (other_partitions, r"partitions: today .*'images': 1.*, the snapshot has .*'images': 2"),
    ],
)
async def test_a_snapshot_of_something_else_is_refused_and_the_previous_used(
    change: Callable[[Any], None], reason: str, two: Two
) -> None:
    store = MemoryBlobStore()
    store.blobs = dict(two.blobs)
    resealed(store, two.names[1], change)
    snapshots = snapshots_in(store, PREFIX, kept=2)
    restored = await snapshots.restore(new_index())
    assert restored is not None
    assert restored.digests() == two.digests[0]
    assert list(snapshots.refused) == [f"0/{two.names[1]}"]
    assert re.match(reason, snapshots.refused[f"0/{two.names[1]}"])


async def test_a_newer_format_is_refused_by_its_number_and_the_previous_used(two: Two) -> None:
    store = MemoryBlobStore()
    store.blobs = dict(two.blobs)
    newer_format(store, two.names[1])
    snapshots = snapshots_in(store, PREFIX, kept=2)
    restored = await snapshots.restore(new_index())
    assert restored is not None
    assert restored.digests() == two.digests[0]
    reason = unknown_version("snapshot manifest", 99, 2)
    assert snapshots.refused == {f"0/{two.names[1]}": reason}


def newer_format(store: MemoryBlobStore, name: str) -> None:
    """Replace a manifest by one of a later format, of which only the format's number is known."""
    store.blobs[f"{PREFIX}{name}/manifest.json"] = orjson.dumps({"format": 99, "all": "else"})


@pytest.mark.parametrize("blob", ["vectors.faiss", "columns.safetensors", "ann.faiss"])
async def test_files_of_a_format_that_nobody_knows_are_refused(blob: str, two: Two) -> None:
    """They are refused although their bytes have the SHA-256 that the manifest names."""
    store, data = MemoryBlobStore(), b"of another version"
    store.blobs = dict(two.blobs)

    def vouch(manifest: Any) -> None:
        for part in manifest["parts"]:
            for entry in part["blobs"]:
                if entry["name"].endswith(blob) and PREFIX + entry["name"] in two.new:
                    store.blobs[PREFIX + entry["name"]] = data
                    entry |= {"bytes": len(data), "sha256": module.manifests.sha256(data)}

    resealed(store, two.names[1], vouch)
    snapshots = snapshots_in(store, PREFIX, kept=2)
    restored = await snapshots.restore(new_index())
    assert restored is not None
    assert restored.digests() == two.digests[0]
    assert re.search(f"{blob}: unreadable", snapshots.refused[f"0/{two.names[1]}"])


@pytest.mark.parametrize("what", ["digest", "vectors"])
async def test_rows_that_do_not_make_the_digest_are_refused(what: str) -> None:
    """A defect of the code may write blobs that match their SHA-256 but not the index state."""
    store = MemoryBlobStore()
    snapshots = snapshots_in(store, PREFIX, kept=1)
    name = await snapshots.write(some_index())

    def change(manifest: Any) -> None:
        if what == "digest":
            manifest["digests"][0]["digest"] = "0" * 32
        else:
            blob = manifest["parts"][0]["blobs"][0]
            raw = store.blobs[PREFIX + blob["name"]]
            store.blobs[PREFIX + blob["name"]] = changed = raw[:-64] + b"\0" * 64
            blob["sha256"] = module.manifests.sha256(changed)

    resealed(store, name, change)
    with pytest.raises(SnapshotRefused, match="digest"):
        await snapshots.verify(f"0/{name}", new_index())


async def test_a_part_that_did_not_change_is_written_once() -> None:
    store, index = MemoryBlobStore(), filled(vectors(100), growing_segment_rows=8)
    snapshots = snapshots_in(store, PREFIX, kept=1)
    await snapshots.write(index)
    parts = {blob for blob in store.blobs if "/parts/" in blob}
    index.apply(batch(record(index.positions[IMAGES], "i0001", None)))
    await snapshots.write(index)
    assert {blob for blob in store.blobs if "/parts/" in blob} == parts
    # After a restart, only the changed segment is written.
    again = snapshots_in(store, PREFIX, kept=1)
    restored = await again.restore(new_index())
    assert restored is not None
    change(restored)
    await again.write(restored)
    now = {blob for blob in store.blobs if "/parts/" in blob}
    assert len(now - parts) == 2
    assert await again.restore(new_index()) is not None


async def test_reasons_are_remembered() -> None:
    snapshots, index = snapshots_in(MemoryBlobStore(), PREFIX, kept=1), some_index()
    index.apply(batch(record(index.positions[IMAGES], "i0003", None, reason="bad_image")))
    await snapshots.write(index)
    restored = await snapshots.restore(new_index())
    assert restored is not None
    assert restored.rejection_reason("images", 0, index.positions[IMAGES] - 1) == "bad_image"


async def test_snapshots_of_another_log_or_space_are_refused() -> None:
    store = MemoryBlobStore()
    name = await snapshots_in(store, PREFIX, kept=2).write(some_index())
    snapshots = snapshots_in(store, "unit-v1/0/1/", kept=2)  # another replica may use it
    assert await snapshots.restore(new_index()) is not None
    recreated = new_index(topic_ids={**TOPIC_IDS, IMAGES.topic: "another"})
    repartitioned = new_index(partitions=2)
    other = Index(Space("unit-v1", "m", "2", "p", 16), NAMES, dict.fromkeys(TARGETS, 1), TOPIC_IDS)
    for index, word in ((recreated, "topic_ids"), (repartitioned, "partitions"), (other, "space")):
        assert await snapshots.restore(index) is None
        assert snapshots.refused[f"0/{name}"].startswith(word)


async def test_old_snapshots_go_and_other_replicas_are_left_alone() -> None:
    store, index = MemoryBlobStore(), filled(vectors(10))
    other = snapshots_in(store, "unit-v1/0/1/", kept=1)
    theirs = await other.write(index)
    snapshots = snapshots_in(store, PREFIX, kept=2)
    names = [await snapshots.write(index) for _ in range(4)]
    assert sorted(names) == names
    assert set(await snapshots.list()) == {f"1/{theirs}", f"0/{names[2]}", f"0/{names[3]}"}
    assert not any(f"/{names[0]}/" in blob for blob in store.blobs)
    # Both replicas' pointers name a snapshot; the newer one is listed first.
    assert (await snapshots.list())[0] == f"0/{names[3]}"


async def test_names_grow_though_the_clock_goes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    store, index = MemoryBlobStore(), filled(vectors(10))
    snapshots = snapshots_in(store, PREFIX, kept=1)
    first = await snapshots.write(index)
    monkeypatch.setattr(module.time, "time_ns", lambda: 5)
    change(index)
    second = await snapshots.write(index)
    assert second > first
    restored = await snapshots.restore(new_index())
    assert restored is not None
    assert restored.digests() == index.digests()


class Crash(BaseException):
    """A stand-in for SIGKILL: no code handles it."""


@pytest.mark.parametrize("point", ["snapshot.blobs", "snapshot.manifest", "snapshot.pointer"])
async def test_a_crash_between_any_two_steps_loses_nothing(
    point: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, index = MemoryBlobStore(), some_index()
    snapshots = snapshots_in(store, PREFIX, kept=1)
    old = await snapshots.write(index)
    before = index.digests()
    change(index)

    def die(reached: str) -> None:
        if reached == point:
            raise Crash

    monkeypatch.setattr(module.fault_points, "reach", die)
    with pytest.raises(Crash):
        await snapshots.write(index)
    monkeypatch.undo()
    again = snapshots_in(store, PREFIX, kept=1)
    restored = await again.restore(new_index())
    assert restored is not None
    assert restored.digests() == (index.digests() if point == "snapshot.pointer" else before)
    assert again.refused == {}
    # The next write deletes everything that the crash left.
    newest = await again.write(restored)
    assert await again.list() == [f"0/{newest}"]
    assert {blob.split("/")[3] for blob in store.blobs} == {newest, "pointer", "parts"}
    needed = module.manifests.segment_names(await again.manifest(f"0/{newest}"))
    assert {blob.split("/")[4] for blob in store.blobs if "/parts/" in blob} == needed
    assert old != newest


class FullDisk(MemoryBlobStore):
    """A store in which only the next `writes` writes succeed."""

    def __init__(self, writes: int) -> None:
        super().__init__()
        self.left = writes

    async def write(self, name: str, data: bytes | memoryview) -> None:
        if self.left == 0:
            raise OSError(28, "No space left on device")
        self.left -= 1
        await super().write(name, data)


class FailingOnce(MemoryBlobStore):
    """A store in which the first read of a name that ends with `blob` fails, or `always` each."""

    blob = "none"
    always = False

    async def read(self, name: str) -> bytes:
        if name.endswith(self.blob):
            if not self.always:
                self.blob = "none"
            raise OSError(f"{name}: the store is away")
        return await super().read(name)


def parts_in(store: MemoryBlobStore) -> set[str]:
    return {name for name in store.blobs if "/parts/" in name}


async def test_a_manifest_that_cannot_be_read_costs_no_snapshot_its_parts() -> None:
    store, index = FailingOnce(), some_index()
    first = snapshots_in(store, PREFIX, kept=3)
    names = [await first.write(index)]
    change(index)
    names.append(await first.write(index))
    before = parts_in(store)
    # A new process must read the other manifests to know which segments they need.
    again = snapshots_in(store, PREFIX, kept=3)
    store.blob = f"{names[0]}/manifest.json"
    change(index)
    names.append(await again.write(index))
    assert store.blob == "none", "it failed"
    assert parts_in(store) > before
    for name in names:
        await again.verify(f"0/{name}", new_index())
    # As soon as all manifests can be read, what none of them needs is deleted again.
    store.blobs[f"{PREFIX}parts/of-nothing/vectors.faiss"] = b"1"
    await again.write(index)
    assert not any("of-nothing" in name for name in store.blobs)


async def test_what_a_segment_is_built_of_stays_in_the_store(tmp_path: Path) -> None:
    """A restored segment uses files of the store, which stay until a merge that reads them ends."""
    spill = new_spill()
    snapshots = SnapshotStore(LocalBlobStore(tmp_path), PREFIX, spill, kept=1)
    await snapshots.write(filled(vectors(10)))
    index = await snapshots.restore(new_index())
    assert index is not None
    [part] = index.view.readers["images"]
    files = await spill.write_out(part)
    assert tmp_path in files.vectors.parents
    index.apply(batch(*(record(10 + n, f"i{n:04}", None) for n in range(10))))
    async with spill.building("new", [part]):
        await snapshots.write(index)
        assert all(path.exists() for path in files.paths)
    await snapshots.write(index)
    assert not any(path.exists() for path in files.paths)


async def test_a_snapshot_of_another_version_keeps_its_parts_as_long_as_itself() -> None:
    store, index = MemoryBlobStore(), some_index()
    name = await snapshots_in(store, PREFIX, kept=2).write(index)
    newer_format(store, name)
    theirs = parts_in(store)
    snapshots, index = snapshots_in(store, PREFIX, kept=2), some_index(50)
    await snapshots.write(index)
    assert parts_in(store) > theirs
    await snapshots.write(index)
    assert not parts_in(store) & theirs
    assert not any(f"/{name}/" in blob for blob in store.blobs)


@pytest.mark.parametrize("blob", ["pointer", "manifest.json", "alive", "columns.safetensors"])
async def test_a_store_that_fails_once_says_nothing_about_a_snapshot(blob: str) -> None:
    store, index = FailingOnce(), some_index()
    snapshots = snapshots_in(store, PREFIX, kept=1)
    await snapshots.write(index)
    store.blob = blob
    with pytest.raises(OSError, match=f"{blob}: the store is away"):
        await snapshots.restore(new_index())
    restored = await snapshots.restore(new_index())
    assert restored is not None
    assert restored.digests() == index.digests()
    assert snapshots.refused == {}


@pytest.mark.parametrize("always", [False, True])
async def test_a_start_tries_again_before_it_takes_the_previous_one(
    always: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("streams.maintainer.snapshot_schedule._RESTORE_PAUSES_S", (0.0, 0.0))
    store, index = FailingOnce(), some_index()
    snapshots = snapshots_in(store, PREFIX, kept=2)
    await snapshots.write(index)
    digests = [index.digests()]
    change(index)
    newest = await snapshots.write(index)
    digests.append(index.digests())
    store.blob, store.always = f"{newest}/alive", always
    snapshot_schedule = SnapshotSchedule(
        snapshots, Metrics(), ManualClock(), every_s=1, every_records=1, refresh_s=1
    )
    restored = await snapshot_schedule.restore(new_index())
    assert restored is not None
    assert restored.digests() == digests[0 if always else 1]
    told = {f"0/{newest}": f"{PREFIX}{newest}/alive: the store is away"}
    assert snapshots.refused == (told if always else {})


@pytest.mark.parametrize("devices", ["one", "two"])
async def test_an_index_outlives_the_snapshot_of_another_replica_that_it_came_from(
    devices: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, index = LocalBlobStore(tmp_path / "store"), some_index()
    other = snapshots_in(store, "unit-v1/0/1/", kept=1)
    await other.write(index)
    if devices == "two":

        def link(source: Path, target: Path) -> None:
            raise OSError(18, "Invalid cross-device link")

        monkeypatch.setattr(os, "link", link)
    snapshots = SnapshotStore(store, PREFIX, SegmentFileStore(tmp_path / "spill"), kept=1)
    restored = await snapshots.restore(new_index())
    assert restored is not None
    # The other replica writes another snapshot, and deletes the files of the first.
    theirs = await other.write(some_index(10))
    change(restored)
    name = await snapshots.write(restored)
    await snapshots.verify(f"0/{name}", new_index())
    assert restored.digests_match()
    # This replica can be restored from its own snapshot.
    own = await snapshots_in(store, PREFIX, kept=1).restore(new_index())
    assert own is not None
    assert own.digests() == restored.digests()
    await other.verify(f"1/{theirs}", new_index())


@pytest.mark.parametrize("writes", range(5))
async def test_a_full_disk_leaves_the_previous_snapshot_and_no_rest(writes: int) -> None:
    store, index = FullDisk(9), some_index()
    snapshots = snapshots_in(store, PREFIX, kept=1)
    await snapshots.write(index)
    whole = dict(store.blobs)
    change(index)
    store.left = writes
    with pytest.raises(OSError, match="No space"):
        await snapshots.write(index)
    assert store.blobs == whole


async def test_applying_goes_on_while_a_snapshot_is_written() -> None:
    """A snapshot contains one state of the index, even if the index changes while it is written."""
    written: list[list[dict[str, object]]] = []

    class Slow(MemoryBlobStore):
        async def write(self, name: str, data: bytes | memoryview) -> None:
            for _ in range(5):
                change(index)
                index.apply(batch(put(index.positions[IMAGES], "new", vectors(1)[0])))
                index.mark_caught_up(IMAGES, 1e9)
                await asyncio.sleep(0)
            await super().write(name, data)

    index = filled(vectors(100), growing_segment_rows=8)
    index.mark_caught_up(IMAGES, 5.0)
    written.append(index.digests())
    snapshots = snapshots_in(Slow(), PREFIX, kept=1)
    await snapshots.write(index)
    restored = await snapshots.restore(new_index())
    assert restored is not None
    assert restored.digests() == written[0] != index.digests()
    assert restored.caught_up_at == {IMAGES: 5.0}
    assert TopicPartition(NAMES.embeddings("captions"), 0) in restored.positions


async def test_files_of_a_snapshot_under_way_are_not_tidied_away() -> None:
    class Growing(MemoryBlobStore):
        async def upload(self, name: str, path: Path) -> None:
            change(index)
            await snapshots.tidy(index)
            await super().upload(name, path)

    index = some_index()
    snapshots = snapshots_in(Growing(), PREFIX, kept=1)
    name = await snapshots.write(index)
    await snapshots.verify(f"0/{name}", new_index())


async def test_two_writes_at_once_take_turns() -> None:
    store, index = MemoryBlobStore(), some_index()
    snapshots = snapshots_in(store, PREFIX, kept=5)
    names = await asyncio.gather(*(snapshots.write(index) for _ in range(3)))
    assert len(set(names)) == 3
    for name in names:
        await snapshots.verify(f"0/{name}", new_index())


async def test_a_write_that_waits_for_another_needs_no_files_that_a_swap_left_behind() -> None:
    """The first write ends by deleting the files that the index does not need any more."""
    begun, go_on = asyncio.Event(), asyncio.Event()

    class Waiting(MemoryBlobStore):
        async def upload(self, name: str, path: Path) -> None:
            begun.set()
            await go_on.wait()
            await super().upload(name, path)

    async def rebuild() -> None:
        merge = index.begin_merge("images")
        index.commit_merge("images", merge, await built(index, "images", merge, spill, "HNSW8"))

    index, spill = filled(vectors(100)), new_spill()
    snapshots = SnapshotStore(Waiting(), PREFIX, spill, kept=2)
    first = asyncio.create_task(snapshots.write(index))
    await begun.wait()
    await rebuild()
    second = asyncio.create_task(snapshots.write(index))
    await asyncio.sleep(0)  # it waits for its turn
    await rebuild()
    go_on.set()
    for name in await asyncio.gather(first, second):
        await snapshots.verify(f"0/{name}", new_index())
