"""The maintainer on the log in memory: deletes that could be missed, snapshots, rebuilds."""

import asyncio
import re
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest

from api.app import create_app
from contracts.embedding import encode_value
from contracts.errors import SnapshotFailed, SnapshotRefused
from contracts.memory import ManualClock, MemoryBlobs, MemoryLog, MemoryReader
from contracts.metrics import Metrics
from contracts.records import Fetched, OutRecord, Source
from contracts.score import Vectors
from contracts.topics import TARGETS, Target
from index_store.index import Index
from index_store.rebuild import Rebuilder
from index_store.searcher import AppliedFeed, LocalSearcher
from streams.keeping import SnapshotKeeper
from streams.maintainer import Maintainer
from streams.operating import Operations
from tests import api_kit
from tests.index_kit import NAMES, SPACE, new_spill, snapshots_in, vectors
from tests.roles import said

pytestmark = pytest.mark.anyio


class FullBlobs(MemoryBlobs):
    full = False

    async def write(self, name: str, data: bytes | memoryview) -> None:
        if self.full:
            raise OSError(28, "No space left on device")
        await super().write(name, data)


class Kit:
    """A log, a store, a clock; `node` makes a maintainer on them."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.log = MemoryLog({NAMES.embeddings(t): 1 for t in TARGETS}, clock=self.clock)
        self.store = FullBlobs()
        self.searcher = LocalSearcher()
        self.metrics = Metrics()

    def node(self) -> Maintainer:
        keeper = SnapshotKeeper(
            snapshots_in(self.store, kept=2),
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
            new_index,
            self.searcher,
            AppliedFeed(),
            keeper,
            Rebuilder(new_spill(), scanned_rows=50),
            self.metrics,
            self.clock,
            batch_records=100,
            wait_ms=20,
            stale_after_s=3600,
        )

    async def put(self, ids: list[str], rows: Vectors) -> None:
        topic = NAMES.embeddings("images")
        start = len(self.log.records[(topic, 0)])  # type: ignore[index]
        await self.log.publish(
            [
                OutRecord(
                    topic,
                    item_id.encode(),
                    encode_value(SPACE, row),
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


async def until(kit: Kit, count: int) -> None:
    async with asyncio.timeout(5):
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
        first = node.keeper.describe()["last"]["name"]
        kit.clock.advance(61)
        await node.snapshot_if_due()
        assert node.keeper.describe()["last"]["name"] == first
        await kit.put([f"b{n}" for n in range(100)], vectors(100))
        await until(kit, 110)
        await node.snapshot_if_due()
        assert node.keeper.describe()["last"]["name"] != first


async def test_an_unchanged_state_is_written_again_before_its_time_ages() -> None:
    kit = Kit()
    async with running(kit.node()) as node:
        await kit.put(["a"], vectors(1))
        await until(kit, 1)
        kit.clock.advance(61)
        await node.snapshot_if_due()
        first = node.keeper.describe()["last"]["name"]
        kit.clock.advance(901)
        await asyncio.sleep(0.05)  # an empty poll: everything has been seen now
        await node.snapshot_if_due()
        assert node.keeper.describe()["last"]["name"] != first
    restored = await snapshots_in(kit.store).restore(index_of(node).emptied())
    assert restored is not None
    assert min(restored.caught_up_at.values()) >= kit.clock.now() - 1


async def test_a_failed_snapshot_is_told_and_tried_again_in_time() -> None:
    kit = Kit()
    async with running(kit.node()) as node:
        await kit.put([f"a{n}" for n in range(200)], vectors(200))
        await until(kit, 200)
        kit.store.full = True
        await node.snapshot_if_due()
        failure = node.keeper.describe()["failure"]
        assert "No space left on device" in failure["reason"]
        assert (
            kit.metrics.registry.get_sample_value("tidelens_snapshots_total", {"outcome": "failed"})
            == 1
        )
        with pytest.raises(SnapshotFailed, match="No space left"):
            await Operations(node, target_recall=0.95).snapshot()
        failed_at = kit.metrics.registry.get_sample_value(
            "tidelens_snapshot_failure_timestamp_seconds"
        )
        assert failed_at == kit.clock.now()
        # Searching goes on; and the next try waits for its time, whatever comes in.
        assert kit.searcher.is_ready
        kit.store.full = False
        await node.snapshot_if_due()
        assert not kit.store.blobs
        kit.clock.advance(61)
        await node.snapshot_if_due()
        assert node.keeper.describe()["failure"] is None
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


async def test_a_reader_that_slept_too_long_starts_over() -> None:
    kit = Kit()
    async with running(kit.node()) as node:
        await kit.put(["a"], vectors(1))
        await until(kit, 1)
        before = index_of(node)
        kit.clock.advance(kit.log.retention_s + 1)
        async with asyncio.timeout(5):
            while index_of(node) is before:
                await asyncio.sleep(0.005)
        await until(kit, 1)


async def test_a_broker_that_is_away_for_long_is_waited_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    kit = Kit()
    silent = False
    fetch = MemoryReader.fetch

    async def fetched(reader: MemoryReader, *, records_max: int, timeout_ms: int) -> Fetched:
        if silent:
            await asyncio.sleep(0.001)
            return Fetched({}, await reader.positions(), {})
        return await fetch(reader, records_max=records_max, timeout_ms=timeout_ms)

    monkeypatch.setattr(MemoryReader, "fetch", fetched)
    async with running(kit.node()) as node:
        await kit.put(["a"], vectors(1))
        await until(kit, 1)
        before, silent = index_of(node), True
        await asyncio.sleep(0.05)
        kit.clock.advance(kit.log.retention_s + 1)
        await asyncio.sleep(0.05)
        assert index_of(node) is before
        assert not kit.searcher.is_ready
        # What it answers now may follow deletes that are gone.
        silent = False
        async with asyncio.timeout(5):
            while index_of(node) is before:
                await asyncio.sleep(0.005)
        await until(kit, 1)


async def test_a_chosen_snapshot_stays_the_one_to_begin_from() -> None:
    kit = Kit()
    async with running(kit.node()) as node:
        operations = Operations(node, target_recall=0.95)
        await kit.put(["a"], vectors(1))
        await until(kit, 1)
        first = "0/" + (await operations.snapshot())["name"]
        await kit.put(["b"], vectors(1))
        await until(kit, 2)
        await operations.snapshot()
        with pytest.raises(SnapshotRefused, match="missing"):
            await operations.restore("0/123")
        assert await operations.restore(first) == {"name": first}
        assert node.keeper.describe()["chosen"] == first
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
        assert node.keeper.describe()["chosen"] is None
        await node.snapshot()


async def test_a_snapshot_that_a_start_would_pass_over_cannot_be_chosen() -> None:
    kit = Kit()
    async with running(kit.node()) as node:
        operations = Operations(node, target_recall=0.95)
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
        operations = Operations(node, target_recall=0.95)
        await kit.put([f"a{n}" for n in range(60)], vectors(60))
        await until(kit, 60)
        await node.rebuild_if_due()
        segments = operations.segments()
        [sealed] = [one for one in segments if one["kind"].startswith("IVF")]
        assert (sealed["target"], sealed["rows"], sealed["live"]) == ("images", 60, 60)
        assert sum(point["used"] for point in sealed["points"]) == 1
        assert (await operations.verify())["verified"] is True
        [rebuilt] = await operations.rebuild(["images"])
        assert rebuilt["rows"] == 60


async def test_the_tuning_table_as_the_command_shows_it() -> None:
    kit, api = Kit(), api_kit.Kit()
    async with running(kit.node()) as node:
        operations = Operations(node, target_recall=0.95)
        await kit.put([f"a{n}" for n in range(60)], vectors(60))
        await until(kit, 60)
        await node.rebuild_if_due()
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
