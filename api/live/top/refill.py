"""Searching standing queries, those of all clients together: first lists, and refills.

One task for the node, alive while something waits. It takes some at a time, in their order, so that
neither a client with many nor the searcher is held up for long.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import replace

from api.http.time_slices import TimeSlice
from api.live.top.apply_queue import ApplyQueue
from api.live.top.ranked_item import ranked_item
from api.live.top.standing_query import StandingQuery
from api.live.top.standing_set import StandingQuerySet
from api.queries.prepare import ItemGone, ResolvedQuery, resolve_query
from contracts.errors import NotReady
from contracts.ports.search import Matcher, Searcher
from contracts.supervision.side_tasks import SideTasks

_AT_ONCE = 32
_RETRY_S = 0.25


class Refiller:
    """Owns the standing queries, and searches those that cannot be kept up without."""

    def __init__(self, searcher: Searcher, matcher: Matcher, side: SideTasks) -> None:
        self._searcher = searcher
        self._side = side
        self.standing = StandingQuerySet(matcher, self._begin)
        self.folding = ApplyQueue(searcher, self.standing, side)
        self._task: asyncio.Task[None] | None = None

    def _begin(self) -> None:
        if self._task is None:
            self._task = asyncio.create_task(self._run(), name="refills")

    async def _run(self) -> None:
        try:
            await self._side.until_done("refills", self._search_all)
        finally:
            self._task = None

    async def _search_all(self) -> None:
        while taken := self.standing.take(_AT_ONCE):
            try:
                await self._search(taken)
            except NotReady as error:
                for one in taken:
                    self.standing.again(one)
                    one.fail(error)
                await asyncio.sleep(_RETRY_S)
            except Exception:
                # The supervisor reports the error; these searches are not lost.
                for one in taken:
                    self.standing.again(one)
                raise

    async def _search(self, taken: Sequence[StandingQuery]) -> None:
        try:
            await self._settle(taken)
        except NotReady:
            raise
        except Exception as error:
            # It was one of them: the others have their answers, each by itself.
            if len(taken) == 1:
                self.standing.fail(taken[0], error)
                return
            for one in taken:
                await self._search([one])

    async def _settle(self, taken: Sequence[StandingQuery]) -> None:
        asked: list[tuple[StandingQuery, ResolvedQuery]] = []
        for one in taken:
            try:
                asked.append((one, await resolve_query(self._searcher, one.question)))
            except ItemGone as gone:
                self.standing.fail(one, gone)
        if not asked:
            return
        queries = [
            replace(found.question.vector_query(found.vector, exact=True), k=one.list.wanted)
            for one, found in asked
        ]
        answers = await self._searcher.search(queries)
        pace = TimeSlice()
        for (one, found), answer in zip(asked, answers, strict=True):
            # Batches applied meanwhile are folded in, as if the search had taken longer.
            ranked = []
            for hit in answer.hits:
                ranked.append(ranked_item(hit))
                await pace.yield_when_over()
            self.folding.found(one, found.vector, ranked, answer.as_of)
