"""The merges of the segments of a served index, when they are due or an operator asks for them."""

from collections.abc import Callable, Sequence

import structlog

from contracts.errors import NotReady, RebuildFailed
from contracts.metrics import Metrics
from contracts.ports.clock import Clock
from contracts.topics import TARGETS, Target
from index_store.index import Index
from index_store.merge.policy import MERGE_ALL, MergePlan
from index_store.merge.run import MergeResult, MergeRunner
from streams.maintainer.snapshot_schedule import SnapshotSchedule

log = structlog.get_logger(__name__)

# A merge that failed (a full disk) would fail again at once, and costs a process each time.
_RETRY_S = 60.0


class IndexMerges:
    """The runner and counter of the merges of the index that `served` returns.

    `served` returns None until a node has its first index.
    """

    def __init__(
        self,
        served: Callable[[], Index | None],
        runner: MergeRunner,
        snapshot_schedule: SnapshotSchedule,
        metrics: Metrics,
        clock: Clock,
    ) -> None:
        self._served = served
        self._runner = runner
        self._snapshot_schedule = snapshot_schedule
        self._metrics = metrics
        self._clock = clock
        self._retry_at = 0.0

    async def merge_all(self, targets: Sequence[Target] = TARGETS) -> list[MergeResult]:
        """Merge all segments of each target. Raises NotReady and RebuildFailed."""
        index = self._served()
        if index is None:
            raise NotReady("this node has no index yet")
        return [await self._merge(index, target, MERGE_ALL) for target in targets]

    async def merge_if_due(self) -> None:
        """Merge segments where many rows are deleted or without an ANN index."""
        await self._merge_where(self._runner.due_merge)

    async def merge_growing_if_due(self) -> None:
        """Merge growing rows only, which does not wait for a large merge to end."""
        await self._merge_where(self._runner.due_growing_merge)

    async def _merge_where(self, due: Callable[[Index, Target], MergePlan | None]) -> None:
        index = self._served()
        if index is None:
            return
        for target in TARGETS:
            if self._clock.now() < self._retry_at:
                return
            plan = due(index, target)
            if plan is not None:
                try:
                    await self._merge(index, target, plan)
                except RebuildFailed as error:
                    log.error("rebuild failed; searching goes on", error=str(error))
                    self._retry_at = self._clock.now() + _RETRY_S

    async def _merge(self, index: Index, target: Target, plan: MergePlan) -> MergeResult:
        try:
            done = await self._runner.run(index, target, plan)
        except RebuildFailed:
            self._metrics.rebuilds.labels(target, "failed").inc()
            raise
        finally:
            # The files of an index that is no longer served are not needed.
            if index is self._served():
                await self._snapshot_schedule.tidy(index)
        self._metrics.rebuilds.labels(target, "done").inc()
        self._metrics.rebuild_seconds.labels(target).set(done.seconds)
        return done
