"""The maintainer on the log in memory: deletes that could be missed, snapshots, rebuilds."""

import asyncio
import re
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import pytest
from structlog.testing import capture_logs

from api.app import create_app
from contracts.errors import (
    BrokerAway,
    BrokerUnavailable,
    SnapshotFailed,
    SnapshotRefused,
    TopicMismatch,
)
from contracts.events.embedding_record import encode_embedding
from contracts.events.record import Fetched, OutRecord, Positions, Source, TopicPartition
from contracts.metrics import Metrics
from contracts.ports.blob_store import BlobStore
from contracts.ports.hit import VectorQuery
from contracts.score import Vectors
from contracts.supervision.children import module_command
from contracts.testing.blob_store import MemoryBlobStore
from contracts.testing.clock import ManualClock
from contracts.testing.event_log import MemoryEventLog, MemoryLogReader
from contracts.topics import TARGETS, Target
from index_store.index import Index
from index_store.merge.run import MergeRunner
from index_store.search.searcher import AppliedFeed, LocalSearcher
from index_store.segment.file_store import SegmentFileStore
from index_store.snapshot.store import SnapshotStore
from index_store.storage.local import LocalBlobStore
from streams.maintainer.admin import MaintainerAdmin
from streams.maintainer.maintainer import Maintainer
from streams.maintainer.pauses import MaintainerPauses
from streams.maintainer.snapshot_schedule import SnapshotSchedule
from tests.kits import api_kit
from tests.kits.index_kit import NAMES, SPACE, new_spill, snapshots_in, vectors
from tests.kits.roles import said

pytestmark = pytest.mark.anyio


class FullBlobs(MemoryBlobStore):
    full = False
    away: str | None = None

    async def read(self, name: str) -> bytes:
        if self.away is not None and name.endswith(self.away):
            raise OSError("the store is away")
        return await super().read(name)

    async def write(self, name: str, data: bytes | memoryview) -> None:
        if self.full:
            raise OSError(28, "No space left on device")
        await super().write(name, data)


class Kit:
    """A log, a store, a clock; `node` makes a maintainer on them, with its files in `spills`."""

    def __init__(self, store: BlobStore | None = None, spills: Path | None = None) -> None:
        self.clock = ManualClock()
        topics = {NAMES.embeddings(t): 1 for t in TARGETS} | {NAMES.dead_letters: 1}
        self.log = MemoryEventLog(topics, clock=self.clock)
        self.store: Any = store or FullBlobs()
        self.spills = spills
        self.searcher = LocalSearcher()
        self.metrics = Metrics()

    def node(self, pauses: MaintainerPauses | None = None) -> Maintainer:
        spill = new_spill() if self.spills is None else SegmentFileStore(self.spills)
        snapshot_schedule = SnapshotSchedule(
            SnapshotStore(self.store, "unit-v1/0/0/", spill, kept=2),
            self.metrics,
            self.clock,
            every_s=60,
            every_records=100,
            refresh_s=900,
        )

        def new_index(partitions: Mapping[Target, int], ids: Mapping[str, str]) -> Index:
            return Index(SPACE, NAMES, partitions, ids)

        return Maintainer(
            self.log,
            NAMES,
            "group",
            new_index=new_index,
            searcher=self.searcher,
            feed=AppliedFeed(),
            snapshot_schedule=snapshot_schedule,
            merger=MergeRunner(spill, scanned_rows=50),
            metrics=self.metrics,
            clock=self.clock,
            batch_records=100,
            wait_ms=20,
            stale_after_s=3600,
            letter_bytes_max=1_000_000,
            pauses=pauses or MaintainerPauses(),
        )

    def sample(self, name: str, **labels: str) -> float | None:
        return self.metrics.registry.get_sample_value(f"tidelens_{name}", labels)

    async def put(self, ids: list[str], rows: Vectors) -> None:
        topic = NAMES.embeddings("images")
        start = len(self.log.records[(topic, 0)])  # type: ignore[index]
        await self.log.publish(
            [
                OutRecord(
                    topic,
                    item_id.encode(),
                    encode_embedding(SPACE, row),
                    [("source", Source("content", 0, start + n).encode()), ("appended", b"1")],
                )
                for n, (item_id, row) in enumerate(zip(ids, rows, strict=True))
            ]
        )


@asynccontextmanager
async def running(node: Maintainer) -> AsyncIterator[Maintainer]:
    task = asyncio.create_task(node.run())
    try:
        yield node
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@pytest.mark.parametrize("count", [2, 3])
async def test_an_embeddings_topic_made_again_under_a_running_node_is_read_from_its_beginning(
    monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    """Nothing comes from a topic with as many records as before, and from a longer one too few."""
    kit = Kit()
    pauses = MaintainerPauses(check_ids_s=0.0, check_ids_idle_s=0.0)
    async with running(kit.node(pauses)) as node:
        await kit.put(["a", "b"], vectors(2))
        await until(kit, 2)
        before = index_of(node)
        applied = before.apply
        seen: list[Fetched] = []
        monkeypatch.setattr(before, "apply", lambda batch: (seen.append(batch), applied(batch))[1])
        kit.log.recreate_topic(NAMES.embeddings("images"))
        await kit.put(["c", "d", "e"][:count], vectors(count))
        async with asyncio.timeout(30):
            while index_of(node) is before or not kit.searcher.is_ready:
                await asyncio.sleep(0.005)
        await until(kit, count)
        assert [await kit.searcher.item("images", name) for name in ("a", "b")] == [None, None]
        # Nothing of the new topic went into the index of the old one.
        assert not any(any(batch.records.values()) for batch in seen)


async def test_a_node_whose_topic_is_gone_while_it_starts_again_tries_until_it_is_there(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    kit = Kit()
    pauses = MaintainerPauses(check_ids_idle_s=0.0, retry_s=0.01)
    async with running(kit.node(pauses)) as node:
        await kit.put(["a"], vectors(1))
        await until(kit, 1)
        before, kept = index_of(node), kit.log.partition_counts
        away = iter([TopicMismatch("topic t does not exist"), BrokerUnavailable("no broker")])

        async def counts(topics: list[str]) -> dict[str, int]:
            for error in away:
                raise error
            return await kept(topics)

        monkeypatch.setattr(kit.log, "partition_counts", counts)
        kit.log.recreate_topic(NAMES.embeddings("images"))
        await kit.put(["b"], vectors(1))
        async with asyncio.timeout(30):
            while index_of(node) is before or not kit.searcher.is_ready:
                await asyncio.sleep(0.005)
        await until(kit, 1)
        assert await kit.searcher.item("images", "a") is None


async def test_a_replay_neither_writes_nor_counts_a_dead_letter_again() -> None:
    kit = Kit()
    topic, letters = NAMES.embeddings("images"), TopicPartition(NAMES.dead_letters, 0)

    def state() -> tuple[float | None, int]:
        counted = kit.sample("dead_letters_total", stage="index", reason="invalid_embedding")
        return counted, len(kit.log.records.get(letters, ()))

    await kit.log.publish([OutRecord(topic, b"bad", b"no embedding")])
    await kit.put(["a"], vectors(1))
    async with running(kit.node()) as node:
        await until(kit, 1)
        await node.commit()
    assert state() == (1, 1)
    kit.searcher.set_not_ready("stopped")
    async with running(kit.node()):
        await until(kit, 1)
    assert state() == (1, 1), "it was replayed from the beginning, without a snapshot"
    await kit.log.publish([OutRecord(topic, b"new", b"no embedding")])
    await kit.put(["b"], vectors(1))
    kit.searcher.set_not_ready("stopped")
    async with running(kit.node()):
        await until(kit, 2)
    assert state() == (2, 2)


@pytest.mark.parametrize("error", [BrokerAway("nobody there"), BrokerUnavailable("refused")])
async def test_a_first_start_waits_for_a_broker_that_left_and_not_for_one_that_refuses(
    monkeypatch: pytest.MonkeyPatch, error: BrokerUnavailable
) -> None:
    """The broker was there a moment ago: the role looks before it starts."""
    kit = Kit()
    kept, away = kit.log.partition_counts, iter([error, error])

    async def counts(topics: list[str]) -> dict[str, int]:
        for each in away:
            raise each
        return await kept(topics)

    monkeypatch.setattr(kit.log, "partition_counts", counts)
    node = kit.node(MaintainerPauses(retry_s=0.01))
    if not isinstance(error, BrokerAway):
        with pytest.raises(BrokerUnavailable, match="refused"):
            await node.run()
        return
    async with running(node):
        await kit.put(["a"], vectors(1))
        await until(kit, 1)


async def test_offsets_that_were_reset_or_expired_are_committed_again() -> None:
    kit = Kit()
    async with running(kit.node()) as node:
        await kit.put(["a", "b"], vectors(2))
        await until(kit, 2)
        await node.commit()
        committed = dict(kit.log.offsets["group"])
        assert committed[TopicPartition(NAMES.embeddings("images"), 0)] == 2
        for changed in ({}, dict.fromkeys(committed, 0)):
            kit.log.offsets["group"] = changed
            # No record comes, so the node is where it was.
            await node.commit()
            assert kit.log.offsets["group"] != committed
            await node.check_committed()
            assert kit.log.offsets["group"] == committed


async def test_offsets_as_committed_are_not_committed_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    kit = Kit()
    async with running(kit.node()) as node:
        await kit.put(["a"], vectors(1))
        await until(kit, 1)
        await node.commit()
        commits: list[Positions] = []

        async def commit(_: str, positions: Positions) -> None:
            commits.append(positions)

        monkeypatch.setattr(kit.log, "commit", commit)
        await node.check_committed()
        assert commits == []


async def until(kit: Kit, count: int) -> None:
    async with asyncio.timeout(30):
        while not kit.searcher.is_ready or kit.searcher.count("images") != count:
            await asyncio.sleep(0.005)


def index_of(node: Maintainer) -> Index:
    assert node.index is not None
    return node.index


async def test_a_snapshot_is_due_by_records_by_age_and_never_unchanged() -> None:
    kit = Kit()
    async with running(kit.node()) as node:
        await kit.put([f"a{n}" for n in range(10)], vectors(10))
        await until(kit, 10)
        await node.snapshot_if_due()
        assert not kit.store.blobs
        kit.clock.advance(61)
        await node.snapshot_if_due()
        first = node.snapshot_schedule.describe()["last"]["name"]
        kit.clock.advance(61)
        await node.snapshot_if_due()
        assert node.snapshot_schedule.describe()["last"]["name"] == first
        await kit.put([f"b{n}" for n in range(100)], vectors(100))
        await until(kit, 110)
        await node.snapshot_if_due()
        assert node.snapshot_schedule.describe()["last"]["name"] != first


async def test_an_unchanged_state_is_written_again_before_its_time_ages() -> None:
    kit = Kit()
    async with running(kit.node()) as node:
        await kit.put(["a"], vectors(1))
        await until(kit, 1)
        kit.clock.advance(61)
        await node.snapshot_if_due()
        first = node.snapshot_schedule.describe()["last"]["name"]
        kit.clock.advance(901)
        await asyncio.sleep(0.05)  # an empty poll: everything has been seen now
        await node.snapshot_if_due()
        assert node.snapshot_schedule.describe()["last"]["name"] != first
    restored = await snapshots_in(kit.store).restore(index_of(node).empty_copy())
    assert restored is not None
    assert min(restored.caught_up_at.values()) >= kit.clock.now() - 1


async def test_a_failed_snapshot_is_told_and_tried_again_in_time() -> None:
    kit = Kit()
    async with running(kit.node()) as node:
        await kit.put([f"a{n}" for n in range(200)], vectors(200))
        await until(kit, 200)
        kit.store.full = True
        await node.snapshot_if_due()
        failure = node.snapshot_schedule.describe()["failure"]
        assert "No space left on device" in failure["reason"]
        assert kit.sample("snapshots_total", outcome="failed") == 1
        with pytest.raises(SnapshotFailed, match="No space left"):
            await MaintainerAdmin(node, target_recall=0.95).snapshot()
        assert kit.sample("snapshot_failure_timestamp_seconds") == kit.clock.now()
        # Searching goes on; and the next try waits for its time, whatever comes in.
        assert kit.searcher.is_ready
        kit.store.full = False
        await node.snapshot_if_due()
        assert not kit.store.blobs
        kit.clock.advance(61)
        await node.snapshot_if_due()
        assert node.snapshot_schedule.describe()["failure"] is None
        assert kit.store.blobs


async def test_a_snapshot_older_than_the_tombstones_is_not_read_on_from() -> None:
    kit = Kit()
    async with running(kit.node()) as node:
        await kit.put(["kept", "gone"], vectors(2))
        await until(kit, 2)
        await node.snapshot()
    # While it was away, "gone" was deleted, and compaction took record and tombstone.
    records = kit.log.records
    topic = NAMES.embeddings("images")
    for partition, found in records.items():
        if partition[0] == topic:
            found[:] = [record for record in found if record.key != b"gone"]
    kit.clock.advance(kit.log.retention_s / 2)
    async with running(kit.node()) as node:
        await until(kit, 2)  # it could still have seen the tombstone
    kit.clock.advance(kit.log.retention_s)
    async with running(kit.node()) as node:
        await until(kit, 1)
        assert index_of(node).get("images", "gone") is None


@pytest.mark.parametrize("harm", ["truncated", "missing", "newer format", "store away"])
async def test_where_no_snapshot_is_good_the_log_is_replayed_to_the_same_digest(
    harm: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("streams.maintainer.snapshot_schedule._RESTORE_PAUSES_S", (0.0, 0.0))
    kit = Kit()
    async with running(kit.node()) as node:
        for n in range(2):
            await kit.put([f"a{n}", "again"], vectors(2, seed=n))
            await until(kit, n + 2)
            await node.snapshot()
    before, blobs = index_of(node).digests(), kit.store.blobs
    manifests = [name for name in blobs if name.endswith("manifest.json")]
    assert len(manifests) == 2
    for name in manifests:
        match harm:
            case "truncated":
                blobs[name] = blobs[name][:-1]
            case "missing":
                del blobs[name.replace("manifest.json", "alive")]
            case "newer format":
                blobs[name] = orjson.dumps({"format": 99})
            case _:
                kit.store.away = "/alive"
    kit.searcher.set_not_ready("ended")
    with capture_logs() as logs:
        async with running(kit.node()) as node:
            await until(kit, 3)
            assert index_of(node).digests() == before
            kit.store.away = None
            await kit.put(["b"], vectors(1))
            await until(kit, 4)
            await node.snapshot()
    refused = [entry["snapshot"] for entry in logs if entry["event"] == "snapshot refused"]
    assert len(refused) == 2
    restored = await snapshots_in(kit.store).restore(index_of(node).empty_copy())
    assert restored is not None
    assert restored.digests() == index_of(node).digests()


async def test_a_reader_that_slept_too_long_starts_over() -> None:
    kit = Kit()
    async with running(kit.node()) as node:
        await kit.put(["a"], vectors(1))
        await until(kit, 1)
        before = index_of(node)
        kit.clock.advance(kit.log.retention_s + 1)
        async with asyncio.timeout(30):
            while index_of(node) is before:
                await asyncio.sleep(0.005)
        await until(kit, 1)


@pytest.mark.parametrize(
    ("lag_s", "limit_s"),
    [(600.0, 600.0), (0.0, 60.0), (86_400.0, 3_600.0), (float("inf"), 3_600.0)],
)
async def test_a_state_that_compaction_may_have_taken_is_not_answered_from(
    monkeypatch: pytest.MonkeyPatch, lag_s: float, limit_s: float
) -> None:
    kit = Kit()
    kit.log.lag_s = lag_s
    silenced = silence(monkeypatch)
    async with running(kit.node()):
        await kit.put(["a"], vectors(1))
        await until(kit, 1)
        silenced.set()
        await asyncio.sleep(0.05)
        kit.clock.advance(limit_s)
        await asyncio.sleep(0.05)
        assert kit.searcher.is_ready
        kit.clock.advance(1)
        async with asyncio.timeout(30):
            while kit.searcher.is_ready:
                await asyncio.sleep(0.005)


def silence(monkeypatch: pytest.MonkeyPatch) -> asyncio.Event:
    """Return an event; the broker is away while it is set."""
    silent = asyncio.Event()
    fetch = MemoryLogReader.fetch

    async def fetched(reader: MemoryLogReader, *, records_max: int, timeout_ms: int) -> Fetched:
        if silent.is_set():
            await asyncio.sleep(0.001)
            return Fetched({}, await reader.positions(), {})
        return await fetch(reader, records_max=records_max, timeout_ms=timeout_ms)

    monkeypatch.setattr(MemoryLogReader, "fetch", fetched)
    return silent


async def test_a_broker_that_is_away_for_long_is_waited_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    kit = Kit()
    silent = silence(monkeypatch)
    async with running(kit.node()) as node:
        await kit.put(["a"], vectors(1))
        await until(kit, 1)
        before = index_of(node)
        silent.set()
        await asyncio.sleep(0.05)
        kit.clock.advance(kit.log.retention_s + 1)
        await asyncio.sleep(0.05)
        assert index_of(node) is before
        assert not kit.searcher.is_ready
        # What it answers now may follow deletes that are gone.
        silent.clear()
        async with asyncio.timeout(30):
            while index_of(node) is before:
                await asyncio.sleep(0.005)
        await until(kit, 1)


async def test_a_replay_is_no_latency() -> None:
    kit = Kit()
    seen = "tidelens_stage_seconds_count", {"stage": "searchable"}

    def items() -> float | None:
        return kit.metrics.registry.get_sample_value("tidelens_index_items", {"target": "images"})

    await kit.put(["a", "b"], vectors(2))
    async with running(kit.node()) as node:
        await until(kit, 2)
        assert kit.metrics.registry.get_sample_value(*seen) is None
        await kit.put(["c"], vectors(1))
        await until(kit, 3)
        assert kit.metrics.registry.get_sample_value(*seen) == 1
        await node.snapshot()
    kit.metrics, kit.searcher = Metrics(), LocalSearcher()
    async with running(kit.node()):
        await until(kit, 3)
        assert kit.metrics.registry.get_sample_value(*seen) is None
        assert items() == 3, "restored, and nothing applied since"


async def test_a_chosen_snapshot_stays_the_one_to_begin_from() -> None:
    kit = Kit()
    async with running(kit.node()) as node:
        operations = MaintainerAdmin(node, target_recall=0.95)
        await kit.put(["a"], vectors(1))
        await until(kit, 1)
        first = "0/" + (await operations.snapshot())["name"]
        await kit.put(["b"], vectors(1))
        await until(kit, 2)
        await operations.snapshot()
        with pytest.raises(SnapshotRefused, match="missing"):
            await operations.restore("0/123")
        assert await operations.restore(first) == {"name": first}
        assert node.snapshot_schedule.describe()["chosen"] == first
        # Neither time, nor changes, nor a clean stop write one in its place.
        await kit.put(["c"], vectors(1))
        await until(kit, 3)
        kit.clock.advance(901)
        await node.snapshot_if_due()
        await node.snapshot()
        with pytest.raises(SnapshotFailed, match="restart this node"):
            await operations.snapshot()
        assert (await snapshots_in(kit.store).list())[0] == first
    async with running(kit.node()) as node:
        await until(kit, 3)
        assert node.snapshot_schedule.describe()["chosen"] is None
        await node.snapshot()


async def test_a_snapshot_that_a_start_would_pass_over_cannot_be_chosen() -> None:
    kit = Kit()
    async with running(kit.node()) as node:
        operations = MaintainerAdmin(node, target_recall=0.95)
        await kit.put(["a"], vectors(1))
        await until(kit, 1)
        old = "0/" + (await operations.snapshot())["name"]
        elsewhere = await snapshots_in(kit.store, "unit-v1/0/1/").write(index_of(node))
        with pytest.raises(SnapshotRefused, match=f"prefer the newer 1/{elsewhere}"):
            await operations.restore(old)
        kit.clock.advance(kit.log.retention_s + 1)
        with pytest.raises(SnapshotRefused, match="tombstones are kept for 86400 s"):
            await operations.restore(old)


async def test_what_is_due_gets_an_index_and_operators_see_it() -> None:
    kit = Kit()
    async with running(kit.node()) as node:
        operations = MaintainerAdmin(node, target_recall=0.95)
        await kit.put([f"a{n}" for n in range(60)], vectors(60))
        await until(kit, 60)
        await node.merge_if_due()
        segments = operations.segments()
        [sealed] = [one for one in segments if one["kind"].startswith("IVF")]
        assert (sealed["target"], sealed["rows"], sealed["live"]) == ("images", 60, 60)
        assert sum(point["used"] for point in sealed["points"]) == 1
        assert (await operations.verify())["verified"] is True
        [rebuilt] = await operations.rebuild(["images"])
        assert rebuilt["rows"] == 60


async def test_files_that_nothing_needs_any_more_are_deleted(tmp_path: Path) -> None:
    kit = Kit(spills=tmp_path)

    def names() -> set[str]:
        return {path.name for path in tmp_path.iterdir()}

    def needed() -> set[str]:
        parts = index_of(node).view.readers["images"]
        return {f"{p.uid}-{len(p.rows)}" if p.files is None else p.files.name for p in parts}

    async with running(kit.node()) as node:
        operations = MaintainerAdmin(node, target_recall=0.95)
        kit.store.full = True
        for n in range(3):
            await kit.put([f"a{n}-{m}" for m in range(60)], vectors(60, seed=n))
            await until(kit, 60 * (n + 1))
            # Growing rows are written again each time.
            with pytest.raises(SnapshotFailed):
                await operations.snapshot()
            assert names() == needed()
        for _ in range(2):
            await operations.rebuild(["images"])
            assert names() == needed()
        kit.store.full = False
        await operations.snapshot()
    restored = await snapshots_in(kit.store).restore(index_of(node).empty_copy())
    assert restored is not None
    assert restored.digests() == index_of(node).digests()


async def test_a_full_disk_stops_neither_searches_nor_applying(tmp_path: Path) -> None:
    child = await asyncio.create_subprocess_exec(
        *module_command("tests.faults.full_disk", str(tmp_path)),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    told, _ = await child.communicate()
    assert child.returncode == 0, told.decode()


async def test_a_disk_that_cannot_be_written_stops_neither(tmp_path: Path) -> None:
    """Folders cannot be made below a file, by root either."""
    (tmp_path / "file").touch()
    kit = Kit(LocalBlobStore(tmp_path / "file" / "store"), tmp_path / "file" / "spills")
    async with running(kit.node()) as node:
        await kit.put([f"a{n}" for n in range(60)], vectors(60))
        await until(kit, 60)
        kit.clock.advance(61)
        await node.snapshot_if_due()
        await node.merge_if_due()
        assert kit.sample("snapshots_total", outcome="failed") == 1
        assert kit.sample("rebuilds_total", target="images", outcome="failed") == 1
        assert "Not a directory" in node.snapshot_schedule.describe()["failure"]["reason"]
        await kit.put(["b"], vectors(1))
        await until(kit, 61)


async def test_the_tuning_table_as_the_command_shows_it() -> None:
    kit, api = Kit(), api_kit.Kit()
    async with running(kit.node()) as node:
        operations = MaintainerAdmin(node, target_recall=0.95)
        await kit.put([f"a{n}" for n in range(60)], vectors(60))
        await until(kit, 60)
        await node.merge_if_due()
        app = create_app(replace(api.node, admin=operations))
        async with api_kit.serving(app, api.settings) as port:
            code, out, err = await said("index", "tune", "--url", f"http://127.0.0.1:{port}")
    assert (code, err) == (0, "")
    [sealed] = [one for one in operations.segments() if one["points"]]
    growing, heading, *table, last = out.splitlines()
    assert (growing, last) == ("images: 0 rows, growing", "captions: 0 rows, growing")
    assert heading == f"images: 60 rows, {sealed['kind']}"
    row = r"  ([* ]) effort +(\d+)  depth +(\d+)  recall@10 (\d\.\d{3})  \d+\.\d{3} ms"
    shown = [re.fullmatch(row, line) for line in table]
    assert [found and found.groups() for found in shown] == [
        ("*" if p["used"] else " ", str(p["effort"]), str(p["depth"]), f"{p['recall']:.3f}")
        for p in sealed["points"]
    ]


async def test_an_audit_that_cannot_be_made_is_skipped_and_says_why() -> None:
    kit = Kit()
    async with running(kit.node()) as node:
        await kit.put([f"a{n}" for n in range(10)], vectors(10))
        await until(kit, 10)
        # As of a space with another dimension.
        await kit.searcher.search([VectorQuery("images", vectors(1)[0])])
        kit.searcher._recent["images"][0] = VectorQuery("images", vectors(1, dim=8)[0])
        with capture_logs() as logs:
            await node.audit()
            await node.audit()
    assert kit.sample("audits_skipped_total", target="images") == 2
    assert kit.sample("audited_recall_count", target="images") in (None, 0)
    assert {(one["event"], one["target"]) for one in logs} == {("query not audited", "images")}
    assert all(one["reason"] for one in logs)
