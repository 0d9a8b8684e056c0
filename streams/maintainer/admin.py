"""The IndexAdmin port on a maintainer: what an operator may do with a running node."""

import asyncio
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from contracts.errors import NotReady
from contracts.topics import TARGETS, Target
from index_store.index import Index
from streams.maintainer.maintainer import Maintainer


class MaintainerAdmin:
    """The operator's commands to one maintainer; each raises NotReady while it has no index."""

    def __init__(self, maintainer: Maintainer, *, target_recall: float) -> None:
        self._maintainer = maintainer
        self._target_recall = target_recall

    async def snapshot(self) -> dict[str, Any]:
        """Write a snapshot now, and return its name. Raises SnapshotFailed."""
        return {"name": await self._maintainer.snapshot_schedule.write(self._index())}

    async def restore(self, name: str) -> dict[str, Any]:
        """Let the next start begin from a snapshot. Raises SnapshotRefused and SnapshotFailed."""
        index, retention_s = self._index(), self._maintainer.retention_s
        await self._maintainer.snapshot_schedule.choose_restore(
            name, index, retention_s=retention_s
        )
        return {"name": name}

    async def rebuild(self, targets: Sequence[Target]) -> list[dict[str, Any]]:
        """Merge all segments of each target. Raises RebuildFailed."""
        return [asdict(done) for done in await self._maintainer.merge_all(targets)]

    async def verify(self) -> dict[str, Any]:
        """Compute the digests of one view again from its rows, and compare them."""
        view = self._index().view
        found = await asyncio.to_thread(view.recomputed_digests)
        return {"verified": found == view.digests, "digests": view.digests_by_partition()}

    def segments(self) -> list[dict[str, Any]]:
        """Return the segments with their tuning: the cost and the recall of each search effort."""
        index = self._index()
        found: list[dict[str, Any]] = []
        for target in TARGETS:
            table = index.segments_of(target)
            found.append(
                {"target": target, "kind": "growing", "rows": table.growing_rows, "points": []}
            )
            for segment in table.sealed_segments:
                points = [] if segment.ann is None else segment.ann.points
                used = None if segment.ann is None else segment.ann.point_for(self._target_recall)
                found.append(
                    {
                        "target": target,
                        "kind": segment.index_type,
                        "rows": segment.capacity,
                        "live": segment.live,
                        "points": [asdict(point) | {"used": point == used} for point in points],
                    }
                )
        return found

    def _index(self) -> Index:
        index = self._maintainer.index
        if index is None:
            raise NotReady("this node has no index yet")
        return index
