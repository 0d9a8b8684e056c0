"""A node on a disk that takes no more: it searches and applies on, and says what failed.

    python -m tests.faults.full_disk FOLDER

A process of its own, since the limit of what a file may hold is one of the process. The kernel then
answers as for a full disk (EFBIG for ENOSPC), in numpy, safetensors and Faiss alike.
"""

import asyncio
import resource
import sys
from pathlib import Path

import pytest

from contracts.errors import RebuildFailed, SnapshotFailed
from contracts.ports.hit import VectorQuery
from index_store.storage.local import LocalBlobStore
from streams.maintainer.admin import MaintainerAdmin
from tests.kits.index_kit import snapshots_in, vectors
from tests.unit.streams.test_maintainer import Kit, index_of, running, until

ROWS = 3000
# Nothing; less than a head; less than the columns of all rows, which take 300 KB.
LIMITS = (0, 100, 100_000)


def allow(file_bytes: int) -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (file_bytes, hard))


async def main(folder: Path) -> None:
    kit = Kit(LocalBlobStore(folder / "store"), folder / "spills")
    rows = vectors(ROWS + len(LIMITS))
    async with running(kit.node()) as node:
        operations = MaintainerAdmin(node, target_recall=0.95)
        await kit.put([f"a{n}" for n in range(ROWS)], rows[:ROWS])
        await until(kit, ROWS)
        for n, limit in enumerate(LIMITS, 1):
            allow(limit)
            kit.clock.advance(61)
            await node.snapshot_if_due()
            await node.merge_if_due()
            assert kit.sample("snapshots_total", outcome="failed") == 2 * n - 1
            assert kit.sample("snapshot_failure_timestamp_seconds") == kit.clock.now()
            assert kit.sample("rebuilds_total", target="images", outcome="failed") == 2 * n - 1
            assert "File too large" in node.snapshot_schedule.describe()["failure"]["reason"]
            with pytest.raises(SnapshotFailed, match="File too large"):
                await operations.snapshot()
            with pytest.raises(RebuildFailed, match="File too large"):
                await operations.rebuild(["images"])
            # Nothing is left that would keep the disk full.
            assert [path for path in folder.rglob("*") if path.is_file()] == []
            await kit.put([f"b{n}"], rows[ROWS + n - 1 : ROWS + n])
            await until(kit, ROWS + n)
            [answer] = await kit.searcher.search([VectorQuery("images", rows[ROWS + n - 1])])
            assert answer.hits[0].id == f"b{n}"
        allow(resource.RLIM_INFINITY)
        kit.clock.advance(61)
        await node.snapshot_if_due()
        await node.merge_if_due()
        assert node.snapshot_schedule.describe()["failure"] is None
        assert len(index_of(node).segments_of("images").sealed_segments) == 1
        restored = await snapshots_in(kit.store).restore(index_of(node).empty_copy())
        assert restored is not None
        assert restored.digests() == index_of(node).digests()


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1])))
