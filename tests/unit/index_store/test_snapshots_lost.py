"""Lost blobs of a snapshot are noticed before the next manifest, reported and written again."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from contracts.errors import SnapshotFailed, SnapshotRefused
from contracts.metrics import Metrics
from contracts.testing.blob_store import MemoryBlobStore
from contracts.testing.clock import ManualClock
from index_store.index import Index
from index_store.segment.file_store import SegmentFileStore
from index_store.snapshot.store import SnapshotStore
from index_store.storage.local import LocalBlobStore
from streams.maintainer.snapshot_schedule import SnapshotSchedule
from tests.kits.index_kit import (
    IMAGES,
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


def change(index: Index) -> None:
    at = index.positions[IMAGES]
    index.apply(batch(record(at, "i0001", None), put(at + 1, f"n{at}", vectors(1, seed=at)[0])))


async def indexed(spill: SegmentFileStore, rows: int = 200) -> Index:
    """Return an index with a sealed segment, which has an ANN index, and growing rows."""
    index = filled(vectors(rows))
    merge = index.begin_merge("images")
    index.commit_merge("images", merge, await built(index, "images", merge, spill, "IVF4,SQ8"))
    change(index)
    return index


class Desk:
    """A snapshot schedule over `store`, with its metrics and a manual clock."""

    def __init__(self, store: Any, spill: SegmentFileStore | None = None, *, kept: int = 2) -> None:
        self.store = store
        self.metrics, self.clock = Metrics(), ManualClock()
        self.snapshots = SnapshotStore(store, PREFIX, spill or new_spill(), kept=kept)
        self.snapshot_schedule = SnapshotSchedule(
            self.snapshots,
            self.metrics,
            self.clock,
            every_s=60,
            every_records=10_000,
            refresh_s=900,
            check_s=100,
        )

    def sample(self, name: str) -> float | None:
        return self.metrics.registry.get_sample_value(name)

    async def whole(self, name: str, index: Index) -> None:
        await self.snapshots.verify(f"0/{name}", new_index())
        restored = await snapshots_in(self.store, PREFIX).restore(new_index())
        assert restored is not None
        assert restored.digests() == index.digests()


@pytest.mark.parametrize("harm", ["deleted", "cut off"])
@pytest.mark.parametrize("of", ["vectors", "columns", "ann", ""])
async def test_parts_that_the_store_has_lost_are_written_again(of: str, harm: str) -> None:
    spill = new_spill()
    desk = Desk(MemoryBlobStore(), spill)
    index = await indexed(spill)
    await desk.snapshot_schedule.write(index)
    blobs = [name for name in desk.store.blobs if of in name and "/parts/" in name]
    assert len(blobs) == {"vectors": 2, "columns": 2, "ann": 1, "": 5}[of]
    for blob in blobs:
        if harm == "deleted":
            del desk.store.blobs[blob]
        else:
            desk.store.blobs[blob] = desk.store.blobs[blob][:-1]
    # The next snapshot names blobs that this process has already written and would not write again.
    index.mark_caught_up(IMAGES, 7.0)
    name = await desk.snapshot_schedule.write(index)
    await desk.whole(name, index)
    assert desk.sample("tidelens_snapshot_blobs_rewritten_total") == len(blobs)
    assert desk.sample("tidelens_snapshot_blobs_lacking") == 0
    assert desk.snapshot_schedule.describe()["lacking"] == {}


async def test_rows_that_come_meanwhile_are_not_taken_for_those_that_were_lost() -> None:
    desk, index = Desk(MemoryBlobStore()), filled(vectors(50))
    await desk.snapshot_schedule.write(index)
    own, lost = desk.snapshots.own, [name for name in desk.store.blobs if "/parts/" in name]
    missing = own.missing

    async def meanwhile(needs: Any) -> list[str]:
        while lost:
            del desk.store.blobs[lost.pop()]
            change(index)
        return await missing(needs)

    own.missing = meanwhile  # type: ignore[method-assign]
    name = await desk.snapshot_schedule.write(index)
    assert desk.sample("tidelens_snapshot_blobs_rewritten_total") == 2
    restored = await snapshots_in(desk.store, PREFIX).restore(new_index())
    assert restored is not None and restored.positions[IMAGES] == 50
    await desk.snapshots.verify(f"0/{name}", new_index())


async def test_a_store_that_was_emptied_gets_everything_again() -> None:
    desk, index = Desk(MemoryBlobStore()), filled(vectors(50))
    await desk.snapshot_schedule.write(index)
    desk.store.blobs.clear()
    await desk.whole(await desk.snapshot_schedule.write(index), index)
    assert len(await desk.snapshots.list()) == 1


async def test_files_of_a_restored_index_that_were_deleted_come_from_memory(tmp_path: Path) -> None:
    """A restored segment uses the files of the store itself, if the store is a folder."""
    store, spill = LocalBlobStore(tmp_path / "store"), SegmentFileStore(tmp_path / "spill")
    await Desk(store, spill).snapshot_schedule.write(await indexed(spill))
    await asyncio.to_thread(lambda: [path.unlink() for path in (tmp_path / "spill").rglob("*.*")])
    desk = Desk(store, SegmentFileStore(tmp_path / "again"))
    index = await desk.snapshot_schedule.restore(new_index())
    assert index is not None
    parts = tmp_path / "store" / PREFIX / "parts"
    gone = await asyncio.to_thread(lambda: list(parts.rglob("*.faiss")))
    assert len(gone) == 3
    for path in gone:
        await asyncio.to_thread(path.unlink)
    change(index)
    name = await desk.snapshot_schedule.write(index)
    await desk.whole(name, index)
    # A merge finds the files that it reads, too.
    merge = index.begin_merge("images")
    segment = await built(index, "images", merge, desk.snapshots._files, "IVF4,SQ8")
    index.commit_merge("images", merge, segment)
    await desk.whole(await desk.snapshot_schedule.write(index), index)


async def test_the_state_is_told_when_it_is_looked_at_and_heals() -> None:
    desk, index = Desk(MemoryBlobStore()), filled(vectors(50))
    first = await desk.snapshot_schedule.write(index)
    parts = [name for name in desk.store.blobs if "/parts/" in name]
    del desk.store.blobs[parts[0]]
    assert not await desk.snapshot_schedule.has_lost_blobs(), "it is not time to look"
    assert desk.snapshot_schedule.describe()["failure"] is None
    desk.clock.advance(100)
    assert await desk.snapshot_schedule.has_lost_blobs()
    told = desk.snapshot_schedule.describe()
    reason = f"{first}: blobs that the store lacks: 1, the first {parts[0].removeprefix(PREFIX)}"
    assert told["failure"] == {"reason": reason, "at": desk.clock.now()}
    assert told["lacking"] == {first: 1}
    assert desk.sample("tidelens_snapshot_blobs_lacking") == 1
    name = await desk.snapshot_schedule.write(index)
    assert desk.snapshot_schedule.describe()["failure"] is None
    assert desk.sample("tidelens_snapshot_blobs_lacking") == 0
    await desk.whole(name, index)


async def test_a_kept_snapshot_that_lacks_what_only_it_needs_is_told_and_refused() -> None:
    desk, index = Desk(MemoryBlobStore(), kept=2), filled(vectors(50))
    old = await desk.snapshot_schedule.write(index)
    del desk.store.blobs[f"{PREFIX}{old}/alive"]
    change(index)
    await desk.snapshot_schedule.write(index)
    assert desk.snapshot_schedule.describe()["lacking"] == {old: 1}
    assert desk.snapshot_schedule.describe()["failure"] is None
    with pytest.raises(SnapshotRefused, match=f"{old}/alive: missing"):
        await desk.snapshots.point_to(old)
    with pytest.raises(SnapshotRefused, match=f"{old}/alive: missing"):
        await desk.snapshots.verify(f"0/{old}", new_index())
    change(index)
    await desk.snapshot_schedule.write(index)
    assert desk.snapshot_schedule.describe()["lacking"] == {}, "it is not kept any more"


async def test_a_store_that_cannot_be_looked_at_is_told_until_it_answers() -> None:
    class Away(MemoryBlobStore):
        error: Exception | None = None

        async def sizes(self, prefix: str) -> Any:
            if self.error is not None:
                raise self.error
            return await super().sizes(prefix)

    desk, index = Desk(Away()), filled(vectors(50))
    await desk.snapshot_schedule.write(index)
    for error, told in ((OSError("away"), "away"), (KeyError("x"), "KeyError: 'x'")):
        desk.store.error = error
        desk.clock.advance(100)
        assert not await desk.snapshot_schedule.has_lost_blobs()
        assert desk.snapshot_schedule.describe()["failure"]["reason"] == told
        with pytest.raises(SnapshotFailed, match=told):
            await desk.snapshot_schedule.write(index)
    desk.store.error = None
    await desk.snapshot_schedule.write(index)
    desk.clock.advance(100)
    assert not await desk.snapshot_schedule.has_lost_blobs()
    assert desk.snapshot_schedule.describe()["failure"] is None


async def test_a_snapshot_that_nobody_can_load_is_refused_and_the_one_before_is_tried(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    desk, index = Desk(MemoryBlobStore()), filled(vectors(50))
    await desk.snapshot_schedule.write(index)
    digests = index.digests()
    change(index)
    newest = await desk.snapshot_schedule.write(index)
    whole = Index.finish_restore

    def finish(self: Index, *state: Any) -> None:
        if state[0] == index.positions:
            raise RuntimeError("of Faiss")
        whole(self, *state)

    monkeypatch.setattr(Index, "finish_restore", finish)
    # Without capture_logs, the log would read source files for the traceback and block the loop.
    with capture_logs() as logs:
        restored = await desk.snapshot_schedule.restore(new_index())
    assert [line["event"] for line in logs if "exc_info" in line] == ["snapshot unreadable"]
    assert restored is not None
    assert restored.digests() == digests
    assert desk.snapshots.refused == {f"0/{newest}": "RuntimeError('of Faiss')"}
