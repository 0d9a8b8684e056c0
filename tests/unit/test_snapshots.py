"""Snapshots: whole or refused, of this log and space only, published last byte first."""

import asyncio
import random
from pathlib import Path

import orjson
import pytest

from contracts.errors import SnapshotRefused
from contracts.hits import VectorQuery
from contracts.memory import MemoryBlobs
from contracts.records import TopicPartition
from contracts.space import Space
from contracts.topics import TARGETS
from index_store import snapshots as module
from index_store.blobs import DiskBlobs
from index_store.index import Index
from tests.index_kit import (
    IMAGES,
    NAMES,
    TOPIC_IDS,
    batch,
    filled,
    new_index,
    put,
    record,
    snapshots_in,
    vectors,
)

pytestmark = pytest.mark.anyio

PREFIX = "unit-v1/0/0/"
QUERY = VectorQuery("images", vectors(1, seed=77)[0], k=1000, with_vector=False)


def some_index(rows: int = 100) -> Index:
    """Images with gaps, captions with everything that JSON may hold."""
    index = filled(vectors(rows))
    index.apply(batch(*(record(rows + n, f"i{2 * n:04}", None) for n in range(30))))
    body = {"item": "p", "text": "ein\u2028Satz\n", "metadata": {"z": 1, "a": [None, "ü"]}}
    captions = [put(n, f"c/ü{n}", row, "captions", **body) for n, row in enumerate(vectors(5))]
    index.apply(batch(*captions))
    index.caught_up(IMAGES, 123.5)
    return index


def change(index: Index) -> None:
    """One row less and one more, so that a part is a new one."""
    at = index.positions[IMAGES]
    index.apply(batch(record(at, "i0001", None), put(at + 1, f"n{at}", vectors(1, seed=at)[0])))


@pytest.mark.parametrize("kind", ["memory", "disk"])
async def test_a_restored_index_is_the_one_that_was_written(kind: str, tmp_path: Path) -> None:
    store = MemoryBlobs() if kind == "memory" else DiskBlobs(tmp_path / "deep" / "snapshots")
    snapshots, index = snapshots_in(store, PREFIX, kept=2), some_index()
    name = await snapshots.write(index)
    empty = new_index(chunk_rows=7)
    restored = await snapshots.restore(empty)
    assert restored is not None
    assert restored.verify()
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
    # It goes on from there.
    change(restored)
    change(index)
    assert restored.digests() == index.digests()


async def test_an_empty_index_can_be_written() -> None:
    snapshots = snapshots_in(MemoryBlobs(), PREFIX, kept=1)
    await snapshots.write(new_index())
    restored = await snapshots.restore(new_index())
    assert restored is not None
    assert restored.count("images") == 0


async def test_nothing_to_restore() -> None:
    assert await snapshots_in(MemoryBlobs(), PREFIX, kept=1).restore(new_index()) is None


@pytest.mark.parametrize("harm", ["tear", "flip", "lose", "swap"])
async def test_a_harmed_snapshot_is_refused_and_the_previous_used(harm: str) -> None:
    """Whichever blob is harmed, and wherever."""
    store, index = MemoryBlobs(), some_index()
    snapshots, dice = snapshots_in(store, PREFIX, kept=2), random.Random(harm)
    await snapshots.write(index)
    before, old = index.digests(), dict(store.blobs)
    change(index)
    newest = await snapshots.write(index)
    whole = dict(store.blobs)
    # What both need is in the store once, so that harm to it would be harm to both.
    blobs = [name for name in whole if name not in old]
    assert {name.rpartition("/")[2] for name in blobs} == {
        "alive",
        "manifest.json",
        "vectors.faiss",
        "columns.safetensors",
    }
    for blob in blobs * (20 if harm == "flip" else 1):
        store.blobs = dict(whole)
        data = whole[blob]
        if harm == "tear":
            store.blobs[blob] = data[: dice.randrange(len(data))]
        elif harm == "lose":
            del store.blobs[blob]
        elif harm == "swap":
            store.blobs[blob] = data[::-1]
        else:
            place, bit = dice.randrange(len(data)), 1 << dice.randrange(8)
            changed = bytes([data[place] ^ bit])
            store.blobs[blob] = data[:place] + changed + data[place + 1 :]
        restored = await snapshots.restore(new_index())
        assert restored is not None
        assert restored.digests() == before, f"{blob} {harm}"
        # A lost manifest leaves no snapshot that could be refused.
        lost = harm == "lose" and blob.endswith("manifest.json")
        assert list(snapshots.refused) == ([] if lost else [f"0/{newest}"])


async def test_a_newer_format_is_refused_by_its_number() -> None:
    store = MemoryBlobs()
    snapshots = snapshots_in(store, PREFIX, kept=1)
    name = await snapshots.write(some_index())
    manifest = f"{PREFIX}{name}/manifest.json"
    store.blobs[manifest] = orjson.dumps({**orjson.loads(store.blobs[manifest]), "format": 99})
    with pytest.raises(SnapshotRefused, match="format: this version reads 2, got 99"):
        await snapshots.verify(f"0/{name}", new_index())


@pytest.mark.parametrize("what", ["digest", "vectors"])
async def test_rows_that_do_not_make_the_digest_are_refused(what: str) -> None:
    """What a bug, and no disk, would do: blobs that match their sums and not the state."""
    store = MemoryBlobs()
    snapshots = snapshots_in(store, PREFIX, kept=1)
    name = await snapshots.write(some_index())
    at = f"{PREFIX}{name}/manifest.json"
    manifest = module.manifests.opened(store.blobs[at])
    if what == "digest":
        manifest["digests"][0]["digest"] = "0" * 32
    else:
        blob = manifest["parts"][0]["blobs"][0]
        raw = store.blobs[PREFIX + blob["name"]]
        store.blobs[PREFIX + blob["name"]] = changed = raw[:-64] + b"\0" * 64
        blob["sha256"] = module.manifests.sha256(changed)
    store.blobs[at] = module.manifests.sealed(manifest)
    with pytest.raises(SnapshotRefused, match="digest"):
        await snapshots.verify(f"0/{name}", new_index())


async def test_a_part_that_did_not_change_is_written_once() -> None:
    store, index = MemoryBlobs(), filled(vectors(100), chunk_rows=8)
    snapshots = snapshots_in(store, PREFIX, kept=1)
    await snapshots.write(index)
    parts = {blob for blob in store.blobs if "/parts/" in blob}
    index.apply(batch(record(index.positions[IMAGES], "i0001", None)))
    await snapshots.write(index)
    assert {blob for blob in store.blobs if "/parts/" in blob} == parts
    # Nor after a restart.
    again = snapshots_in(store, PREFIX, kept=1)
    restored = await again.restore(new_index())
    assert restored is not None
    change(restored)
    await again.write(restored)
    now = {blob for blob in store.blobs if "/parts/" in blob}
    assert len(now - parts) == 2
    assert await again.restore(new_index()) is not None


async def test_reasons_are_remembered() -> None:
    snapshots, index = snapshots_in(MemoryBlobs(), PREFIX, kept=1), some_index()
    index.apply(batch(record(index.positions[IMAGES], "i0003", None, reason="bad_image")))
    await snapshots.write(index)
    restored = await snapshots.restore(new_index())
    assert restored is not None
    assert restored.reason_of("images", 0, index.positions[IMAGES] - 1) == "bad_image"


async def test_snapshots_of_another_log_or_space_are_refused() -> None:
    store = MemoryBlobs()
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
    store, index = MemoryBlobs(), filled(vectors(10))
    other = snapshots_in(store, "unit-v1/0/1/", kept=1)
    theirs = await other.write(index)
    snapshots = snapshots_in(store, PREFIX, kept=2)
    names = [await snapshots.write(index) for _ in range(4)]
    assert sorted(names) == names
    assert set(await snapshots.list()) == {f"1/{theirs}", f"0/{names[2]}", f"0/{names[3]}"}
    assert not any(f"/{names[0]}/" in blob for blob in store.blobs)
    # The other's own may be as old as they like.
    assert (await snapshots.list())[0] == f"0/{names[3]}"


async def test_names_grow_though_the_clock_goes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    store, index = MemoryBlobs(), filled(vectors(10))
    snapshots = snapshots_in(store, PREFIX, kept=1)
    first = await snapshots.write(index)
    monkeypatch.setattr(module.time, "time_ns", lambda: 5)
    change(index)
    second = await snapshots.write(index)
    assert second > first
    restored = await snapshots.restore(new_index())
    assert restored is not None
    assert restored.digests() == index.digests()


class Crash(Exception):
    """Stands for SIGKILL: nothing after it runs."""


@pytest.mark.parametrize("point", ["snapshot.blobs", "snapshot.manifest", "snapshot.pointer"])
async def test_a_crash_between_any_two_steps_loses_nothing(
    point: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, index = MemoryBlobs(), some_index()
    snapshots = snapshots_in(store, PREFIX, kept=1)
    old = await snapshots.write(index)
    before = index.digests()
    change(index)

    def die(reached: str) -> None:
        if reached == point:
            raise Crash

    monkeypatch.setattr(module.faults, "reach", die)
    with pytest.raises(Crash):
        await snapshots.write(index)
    monkeypatch.undo()
    again = snapshots_in(store, PREFIX, kept=1)
    restored = await again.restore(new_index())
    assert restored is not None
    assert restored.digests() == (index.digests() if point == "snapshot.pointer" else before)
    assert again.refused == {}
    # The next write cleans up, whatever was left.
    newest = await again.write(restored)
    assert await again.list() == [f"0/{newest}"]
    assert {blob.split("/")[3] for blob in store.blobs} == {newest, "pointer", "parts"}
    needed = module.manifests.parts_in(await again.manifest(f"0/{newest}"))
    assert {blob.split("/")[4] for blob in store.blobs if "/parts/" in blob} == needed
    assert old != newest


class FullDisk(MemoryBlobs):
    """Writes fail from the n-th on."""

    def __init__(self, writes: int) -> None:
        super().__init__()
        self.left = writes

    async def write(self, name: str, data: bytes | memoryview) -> None:
        if self.left == 0:
            raise OSError(28, "No space left on device")
        self.left -= 1
        await super().write(name, data)


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
    """What is written is one state, however the index moves meanwhile."""
    written: list[list[dict[str, object]]] = []

    class Slow(MemoryBlobs):
        async def write(self, name: str, data: bytes | memoryview) -> None:
            for _ in range(5):
                change(index)
                index.apply(batch(put(index.positions[IMAGES], "new", vectors(1)[0])))
                index.caught_up(IMAGES, 1e9)
                await asyncio.sleep(0)
            await super().write(name, data)

    index = filled(vectors(100), chunk_rows=8)
    index.caught_up(IMAGES, 5.0)
    written.append(index.digests())
    snapshots = snapshots_in(Slow(), PREFIX, kept=1)
    await snapshots.write(index)
    restored = await snapshots.restore(new_index())
    assert restored is not None
    assert restored.digests() == written[0] != index.digests()
    assert restored.caught_up_at == {IMAGES: 5.0}
    assert TopicPartition(NAMES.embeddings("captions"), 0) in restored.positions


async def test_two_writes_at_once_take_turns() -> None:
    store, index = MemoryBlobs(), some_index()
    snapshots = snapshots_in(store, PREFIX, kept=5)
    names = await asyncio.gather(*(snapshots.write(index) for _ in range(3)))
    assert len(set(names)) == 3
    for name in names:
        await snapshots.verify(f"0/{name}", new_index())
