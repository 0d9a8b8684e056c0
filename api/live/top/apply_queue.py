"""Applied batches and the results of searches, which change the standing lists in their order.

The product of a batch with ten thousand standing queries takes 25 ms. So it is computed in a
thread, and then the lists are changed in steps, between which other tasks run. Meanwhile the index
is ahead of the lists. So a list is sent with the state at which it is exact: the one after the last
batch that was applied to it. The result of a search, which may have seen any batch that had arrived
when it ended, waits until these batches have been applied.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import TypeVar

from api.http.time_slices import TimeSlice
from api.live.batch_match import MatchBatch
from api.live.limits import ListLimits
from api.live.top.ranked_item import RankedItem
from api.live.top.refilled_list import RefillResult
from api.live.top.standing_query import StandingQuery
from api.live.top.standing_set import StandingQuerySet
from contracts.errors import NotReady
from contracts.ports.search import AppliedBatch, Searcher
from contracts.score import Vectors
from contracts.supervision.side_tasks import SideTasks
from contracts.wire.as_of import AsOf

_DEFAULT_LIMITS = ListLimits()

_Result = TypeVar("_Result")


async def in_thread(work: Callable[[], _Result]) -> _Result:
    """Run `work` in a thread, and return its result."""
    return await asyncio.to_thread(work)


@dataclass(frozen=True, eq=False, slots=True)
class _BatchGroup:
    """Batches that were applied to the index together, and the state after them if it is known."""

    batches: Sequence[MatchBatch]
    as_of: AsOf | None


class ApplyQueue:
    """The queue of all that changes the standing lists, applied in order in one task.

    Only this class decides which state a list is exact at.
    """

    def __init__(
        self,
        searcher: Searcher,
        queries: StandingQuerySet,
        side: SideTasks,
        limits: ListLimits = _DEFAULT_LIMITS,
    ) -> None:
        self._limits = limits
        self._searcher = searcher
        self._queries = queries
        self._side = side
        self._waiting: deque[_BatchGroup | RefillResult] = deque()
        self._rows = 0
        self._task: asyncio.Task[None] | None = None
        # Some lists have followed the first group of batches, and others not yet.
        self._is_applying = False
        # The state that current lists are exact at, while something waits.
        self._exact_at: AsOf | None = None
        # The queries whose state was asked for while there was none.
        self._deferred: dict[StandingQuery, None] = {}

    def as_of(self, query: StandingQuery) -> AsOf | None:
        """Return the state that the query's list is exact at if it is current. Raises NotReady.

        The result is None while lists are between two states. The query's subscribers are then
        woken once there is such a state.
        """
        now = self._searcher.as_of()
        if not self._waiting:
            self._exact_at = now
        if self._exact_at is None or self._is_applying:
            self._deferred[query] = None
            return None
        return self._exact_at

    def add_batches(self, batches: Sequence[AppliedBatch]) -> None:
        """Apply what was applied to the index in this turn of the loop: now, or in the task."""
        if not len(self._queries):
            return
        group = _BatchGroup([self._queries.number_batch(one) for one in batches], self._now())
        if (
            not self._waiting
            and sum(map(self._queries.pairs, group.batches)) <= self._limits.inline_pairs_max
        ):
            self._queries.apply_now(group.batches)
            self._exact_at = group.as_of
            return
        self._rows += sum(batch.rows for batch in group.batches)
        self._waiting.append(group)
        if self._rows > self._limits.waiting_rows_max:
            self.invalidate_all()
        elif self._task is None:
            self._task = asyncio.create_task(self._run(), name="folding")

    def add_result(
        self, query: StandingQuery, vector: Vectors, ranked: Sequence[RankedItem], as_of: AsOf
    ) -> None:
        """Give the query the list of its search, once the batches that wait have been applied."""
        result = self._queries.refill_result(query, vector, ranked, as_of)
        if result is None:
            return
        if self._waiting:
            self._waiting.append(result)
        else:
            self._queries.complete_refill(result)
            self._exact_at = self._now()

    def invalidate_all(self) -> None:
        """Search all lists again, since the state is not a successor of the last one."""
        self._waiting.clear()
        self._rows = 0
        self._is_applying = False
        self._exact_at = None
        self._deferred.clear()
        self._queries.invalidate_all()

    async def _run(self) -> None:
        try:
            with self._side.count_failures("folding"):
                try:
                    await self._apply_all()
                except Exception:
                    # A list may be wrong now.
                    self.invalidate_all()
                    raise
        finally:
            self._task = None

    async def _apply_all(self) -> None:
        pace = TimeSlice()
        while self._waiting:
            first = self._waiting[0]
            if isinstance(first, RefillResult):
                self._complete_refill(first)
            else:
                await self._apply(first)
            if self._is_first(first):
                self._waiting.popleft()
            await pace.yield_when_over()

    async def _apply(self, group: _BatchGroup) -> None:
        """Apply a group of batches. If all lists are invalidated meanwhile, leave off.

        Then the group is no longer the first.
        """
        matched = []
        for batch in group.batches:
            matched.append((batch, await in_thread(self._queries.match_job(batch))))
            if not self._is_first(group):
                return
        self._is_applying = True
        began = perf_counter()
        for _ in self._queries.apply_in_steps(matched):
            if perf_counter() - began > self._limits.slice_s:
                await asyncio.sleep(0)
                if not self._is_first(group):
                    return
                began = perf_counter()
        self._end_group(group)

    def _end_group(self, group: _BatchGroup) -> None:
        """Declare the lists exact at the state after the group, and wake who waited for that."""
        self._is_applying = False
        self._rows -= sum(batch.rows for batch in group.batches)
        self._exact_at = group.as_of
        deferred, self._deferred = self._deferred, {}
        for query in deferred:
            query.wake()

    def _complete_refill(self, result: RefillResult) -> None:
        self._queries.complete_refill(result)
        # All batches that the search has seen have been applied; it may have seen transaction
        # markers too, but these change no list. So all lists are exact at its state, and no client
        # is sent a list of that state and then one of an earlier state.
        exact_at, as_of = self._exact_at, result.as_of
        if exact_at is not None and as_of is not None and as_of.covers(exact_at):
            self._exact_at = as_of

    def _is_first(self, waiting: _BatchGroup | RefillResult) -> bool:
        return bool(self._waiting) and self._waiting[0] is waiting

    def _now(self) -> AsOf | None:
        try:
            return self._searcher.as_of()
        except NotReady:
            return None
