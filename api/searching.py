"""POST /v1/search: one query or a list of them, answered from one view."""

import asyncio
from collections.abc import Sequence
from time import perf_counter
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from api.bodies import json, read_json
from api.freshness import Freshness
from api.node import Node
from api.queries import prepare, search
from api.waiting import Waiting
from contracts.errors import TidelensError, TimedOut
from contracts.messages import Query, parse_queries, wire_as_of, wire_hit
from contracts.ports import Answer


class Searching:
    """The endpoint."""

    def __init__(self, node: Node, waiting: Waiting, freshness: Freshness) -> None:
        self._node = node
        self._waiting = waiting
        self._freshness = freshness

    async def post(self, request: Request) -> Response:
        began = perf_counter()
        outcome = "error"
        try:
            settings = self._node.settings
            body = await read_json(request, bytes_max=settings.body_bytes_max)
            queries = parse_queries(body, queries_max=settings.queries_max)
            answers = await self._bounded(queries)
            outcome = "ok"
        except TidelensError as error:
            outcome = type(error).__name__
            raise
        finally:
            took_s = perf_counter() - began
            self._node.metrics.search_seconds.labels(outcome).observe(took_s)
        messages = [self._message(answer, took_s) for answer in answers]
        return json(messages if isinstance(body, list) else messages[0])

    async def _bounded(self, queries: Sequence[Query]) -> list[Answer]:
        """Within the shortest `timeout_s` of the queries, and in any case within the limit."""
        limits = [query.timeout_s for query in queries if query.timeout_s is not None]
        bound_s = min([*limits, self._node.settings.wait_s_max])
        try:
            async with asyncio.timeout(bound_s):
                for query in queries:
                    if query.wait_for is not None:
                        await self._waiting.wait_for(query.wait_for)
                questions = await asyncio.gather(*(prepare(self._node, q) for q in queries))
                for question in questions:
                    # Here and not for standing queries, which may wait for the first such item.
                    if question.filter is not None:
                        await self._node.searcher.check_filter(question.target, question.filter)
                return await search(self._node.searcher, questions)
        except TimeoutError:
            raise TimedOut(f"timeout_s: no answer within {bound_s:g} s") from None

    def _message(self, answer: Answer, took_s: float) -> dict[str, Any]:
        return {
            "hits": [wire_hit(hit) for hit in answer.hits],
            "as_of": wire_as_of(answer.as_of),
            "behind_s": self._freshness.behind_s(),
            "partial": False,
            "shards_ok": 1,
            "shards": 1,
            "took_ms": round(took_s * 1000, 3),
        }
