"""The searches that give standing queries their lists, for the lists of all clients together.

One task of the node runs while a query is due. It searches some queries at a time, in their order,
so that neither a client with many queries nor the searcher is held up for long.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import replace

from api.http.time_slices import TimeSlice
from api.live.limits import ListLimits
from api.live.top.apply_queue import ApplyQueue
from api.live.top.ranked_item import ranked_item
from api.live.top.standing_query import StandingQuery
from api.live.top.standing_set import StandingQuerySet
from api.queries.prepare import ItemGone, ResolvedQuery, resolve_query
from contracts.errors import NotReady
from contracts.ports.search import Matcher, Searcher
from contracts.supervision.side_tasks import SideTasks

_QUERIES_AT_ONCE = 32
_RETRY_S = 0.25
_DEFAULT_LIMITS = ListLimits()


class Refiller:
    """The owner of the standing queries, which searches lists that cannot follow batches."""

    def __init__(
        self,
        searcher: Searcher,
        matcher: Matcher,
        side: SideTasks,
        limits: ListLimits = _DEFAULT_LIMITS,
    ) -> None:
        self._searcher = searcher
        self._side = side
        self.queries = StandingQuerySet(matcher, self._start, limits)
        self.apply_queue = ApplyQueue(searcher, self.queries, side, limits)
        self._task: asyncio.Task[None] | None = None

    def _start(self) -> None:
        if self._task is None:
            self._task = asyncio.create_task(self._run(), name="refills")

    async def _run(self) -> None:
        try:
            await self._side.until_done("refills", self._search_all)
        finally:
            self._task = None

    async def _search_all(self) -> None:
        while taken := self.queries.take_due(_QUERIES_AT_ONCE):
            try:
                await self._search(taken)
            except NotReady as error:
                for query in taken:
                    self.queries.requeue(query)
                    query.fail(error)
                await asyncio.sleep(_RETRY_S)
            except Exception:
                # The supervisor reports the error; these searches are not lost.
                for query in taken:
                    self.queries.requeue(query)
                raise

    async def _search(self, taken: Sequence[StandingQuery]) -> None:
        """Search queries together; if that fails, search each by itself to find the cause."""
        try:
            await self._search_together(taken)
        except NotReady:
            raise
        except Exception as error:
            if len(taken) == 1:
                self.queries.fail(taken[0], error)
                return
            for query in taken:
                if query.is_searching:
                    await self._search([query])

    async def _search_together(self, taken: Sequence[StandingQuery]) -> None:
        resolved: list[tuple[StandingQuery, ResolvedQuery]] = []
        for query in taken:
            try:
                resolved.append((query, await resolve_query(self._searcher, query.query)))
            except ItemGone as gone:
                self.queries.fail(query, gone)
        if not resolved:
            return
        vector_queries = [
            replace(one.question.vector_query(one.vector, exact=True), k=query.list.wanted)
            for query, one in resolved
        ]
        answers = await self._searcher.search(vector_queries)
        pace = TimeSlice()
        for (query, one), answer in zip(resolved, answers, strict=True):
            # Batches that arrive meanwhile are applied as if the search had taken longer.
            ranked = []
            for hit in answer.hits:
                ranked.append(ranked_item(hit))
                await pace.yield_when_over()
            self.apply_queue.add_result(query, one.vector, ranked, answer.as_of)
