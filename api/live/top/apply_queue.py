"""Applied batches and found lists reach the standing set in order, and the event loop goes on.

The product of a batch with ten thousand standing queries takes 25 ms: it is computed in a thread,
and then the lists are changed in steps, between which others get their turns. Meanwhile the index
is ahead of the lists. So a list is sent with the state that it is exact at, the one after the last
batch that was folded; and what a search found, which may have seen any batch that had arrived when
it ended, waits until these have been folded.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import TypeVar

from api.http.time_slices import SLICE_S, TimeSlice
from api.live.batch_match import MatchBatch
from api.live.top.ranked_item import RankedItem
from api.live.top.standing_query import StandingQuery
from api.live.top.standing_set import RefillResult, StandingQuerySet
from contracts.errors import NotReady
from contracts.ports.search import AppliedBatch, Searcher
from contracts.score import Vectors
from contracts.supervision.side_tasks import SideTasks
from contracts.wire.as_of import AsOf

# Pairs of a standing query and a new item that are matched at once, on the loop: 3 ms.
_QUICK_PAIRS = 1024 * 256
# Rows of batches that wait. Once there are more, all lists are searched anew: by then that is the
# shorter way, and what waits takes memory.
_BEHIND_ROWS = 65_536

_Result = TypeVar("_Result")


async def in_thread(work: Callable[[], _Result]) -> _Result:
    return await asyncio.to_thread(work)


@dataclass(frozen=True, eq=False, slots=True)
class _BatchGroup:
    """Batches that were applied together, and the state after them, where that was known."""

    batches: Sequence[MatchBatch]
    as_of: AsOf | None


class ApplyQueue:
    """One task, alive while something waits."""

    def __init__(self, searcher: Searcher, standing: StandingQuerySet, side: SideTasks) -> None:
        self._searcher = searcher
        self._standing = standing
        self._side = side
        self._waiting: deque[_BatchGroup | RefillResult] = deque()
        self._rows = 0
        self._task: asyncio.Task[None] | None = None
        self._between_states = False
        # The state that settled lists are exact at, while something waits.
        self._at: AsOf | None = None
        # Who asked for it when there was none.
        self._put_off: dict[StandingQuery, None] = {}

    def as_of(self, standing: StandingQuery) -> AsOf | None:
        """The state that its list is exact at, if it is settled. Raises NotReady.

        None while there is none: it is woken when it may ask again.
        """
        now = self._searcher.as_of()
        if not self._waiting:
            self._at = now
        if self._at is None or self._between_states:
            self._put_off[standing] = None
            return None
        return self._at

    def applied(self, batches: Sequence[AppliedBatch]) -> None:
        """Fold in what was applied to the index in this turn of the loop."""
        if not len(self._standing):
            return
        group = _BatchGroup([self._standing.arrive(one) for one in batches], self._now())
        if not self._waiting and sum(map(self._standing.pairs, group.batches)) <= _QUICK_PAIRS:
            self._standing.fold_now(group.batches)
            self._at = group.as_of
            return
        self._rows += sum(batch.rows for batch in group.batches)
        self._waiting.append(group)
        if self._rows > _BEHIND_ROWS:
            self.mark_all()
        elif self._task is None:
            self._task = asyncio.create_task(self._run(), name="folding")

    def found(
        self, standing: StandingQuery, vector: Vectors, ranked: Sequence[RankedItem], as_of: AsOf
    ) -> None:
        """A search has ended: settle it as soon as may be."""
        found = self._standing.found(standing, vector, ranked, as_of)
        if found is None:
            return
        if self._waiting:
            self._waiting.append(found)
        else:
            self._standing.settle(found)
            self._at = self._now()

    def mark_all(self) -> None:
        """The state became another one altogether: none of the lists holds."""
        self._waiting.clear()
        self._rows = 0
        self._between_states = False
        self._at = None
        self._put_off.clear()
        self._standing.mark_all()

    async def _run(self) -> None:
        try:
            with self._side.count_failures("folding"):
                try:
                    await self._fold_all()
                except Exception:
                    # A list may be wrong now.
                    self.mark_all()
                    raise
        finally:
            self._task = None

    async def _fold_all(self) -> None:
        pace = TimeSlice()
        while self._waiting:
            first = self._waiting[0]
            if isinstance(first, RefillResult):
                self._settle(first)
            else:
                await self._fold(first)
            if self._is_first(first):
                self._waiting.popleft()
            await pace.yield_when_over()

    async def _fold(self, group: _BatchGroup) -> None:
        """Unless all is marked meanwhile: then the group is not the first any more."""
        matched = []
        for batch in group.batches:
            matched.append((batch, await in_thread(self._standing.matching(batch))))
            if not self._is_first(group):
                return
        self._between_states = True
        began = perf_counter()
        for _ in self._standing.fold(matched):
            if perf_counter() - began > SLICE_S:
                await asyncio.sleep(0)
                if not self._is_first(group):
                    return
                began = perf_counter()
        self._between_states = False
        self._rows -= sum(batch.rows for batch in group.batches)
        self._at = group.as_of
        put_off, self._put_off = self._put_off, {}
        for standing in put_off:
            standing.wake()

    def _settle(self, found: RefillResult) -> None:
        self._standing.settle(found)
        # Of what it has seen, all but markers has been folded: a list is as true of that state, and
        # nobody is sent a list, and later one of an earlier state.
        if self._at is not None and found.as_of is not None and found.as_of.covers(self._at):
            self._at = found.as_of

    def _is_first(self, waiting: _BatchGroup | RefillResult) -> bool:
        return bool(self._waiting) and self._waiting[0] is waiting

    def _now(self) -> AsOf | None:
        try:
            return self._searcher.as_of()
        except NotReady:
            return None
