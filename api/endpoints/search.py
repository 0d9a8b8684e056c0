"""POST /v1/search: one query or a list of them, answered from one view."""

import asyncio
from collections.abc import Sequence
from time import perf_counter
from typing import Any

import orjson
from starlette.requests import Request
from starlette.responses import Response

from api.http.answer_memory import answers_bytes
from api.http.answer_pieces import AnswerBody
from api.http.answers import ResponseWriter
from api.http.bodies import BodyReader
from api.http.deadline import time_limit
from api.http.hit_json import hits_json
from api.http.time_slices import TimeSlice
from api.node import Node
from api.queries.freshness import Freshness
from api.queries.prepare import picture_semaphore, prepare_query, search_consistently
from api.queries.wait_for import StateWaiter
from contracts.errors import TidelensError
from contracts.ports.search import Answer
from contracts.wire.as_of import AsOf
from contracts.wire.client_messages import Query
from contracts.wire.message_json import wire_as_of, wire_warnings
from contracts.wire.parser import parse_queries


class SearchEndpoint:
    """The endpoint, which also measures how long each request takes, by its outcome."""

    def __init__(
        self,
        node: Node,
        waiting: StateWaiter,
        freshness: Freshness,
        responses: ResponseWriter,
        bodies: BodyReader,
    ) -> None:
        self._node = node
        self._waiting = waiting
        self._freshness = freshness
        self._responses = responses
        self._bodies = bodies

    async def post(self, request: Request) -> Response:
        """Answer one query or a list of them."""
        began = perf_counter()
        outcome = "error"
        pieces: AnswerBody | None = None
        try:
            listed, queries = await self._bodies.parsed(request, self._parsed)
            expected = answers_bytes(queries, self._node.space.dim)
            pieces = self._responses.body(expected)
            answers = await self._bounded(queries)
            took_s = perf_counter() - began
            await self._write(pieces, queries, answers, took_s, listed=listed)
            outcome = "ok"
            return self._responses.response(pieces)
        except BaseException as error:
            if pieces is not None:
                pieces.close()
            if isinstance(error, TidelensError):
                outcome = type(error).__name__
            raise
        finally:
            self._node.metrics.search_seconds.labels(outcome).observe(perf_counter() - began)

    def _parsed(self, body: Any) -> tuple[bool, list[Query]]:
        """Return whether the body is a list, and its queries."""
        queries = parse_queries(body, queries_max=self._node.settings.queries_max)
        return isinstance(body, list), [query.parse_filter() for query in queries]

    async def _bounded(self, queries: Sequence[Query]) -> list[Answer]:
        """Answer within the shortest `timeout_s` of the queries and the server's limit."""
        asked_s = [query.timeout_s for query in queries]
        async with time_limit(self._node.settings.wait_s_max, asked_s, "timeout_s: no answer"):
            for query in queries:
                if query.wait_for is not None:
                    await self._waiting.wait_for(query.wait_for)
            pace, turns = TimeSlice(), picture_semaphore(self._node)
            questions = await asyncio.gather(
                *(prepare_query(self._node, query, pace, turns) for query in queries)
            )
            return await search_consistently(self._node.searcher, questions)

    async def _write(
        self,
        pieces: AnswerBody,
        queries: Sequence[Query],
        answers: Sequence[Answer],
        took_s: float,
        *,
        listed: bool,
    ) -> None:
        """Write the answers as JSON. Raises RejectedRequest if they have too many bytes."""
        pace, rests = (
            self._responses.budget.time_slice(),
            _ResultsRest(self._freshness.behind_s(), took_s),
        )
        pieces.add(b"[" if listed else b"")
        for number, (query, answer) in enumerate(zip(queries, answers, strict=True)):
            pieces.add(b',{"hits":[' if number else b'{"hits":[')
            for some in hits_json(answer.hits, query.include):
                pieces.add(some)
                await pace.yield_when_over()
            pieces.add(b"]," + rests.of(answer))
        pieces.add(b"]" if listed else b"")


class _ResultsRest:
    """A writer of the members that follow the hits in each answer of one request."""

    def __init__(self, behind_s: float | None, took_s: float) -> None:
        self._behind_s = behind_s
        self._took_ms = round(took_s * 1000, 3)
        self._as_of: AsOf | None = None
        self._written = b""

    def of(self, answer: Answer) -> bytes:
        """Return the members as JSON without the first brace.

        All members but the warnings are equal for one view, and are written once.
        """
        if answer.as_of is not self._as_of:
            self._as_of = answer.as_of
            members = {
                "as_of": wire_as_of(answer.as_of),
                "behind_s": self._behind_s,
                "partial": False,
                "shards_ok": 1,
                "shards": 1,
                "took_ms": self._took_ms,
            }
            self._written = orjson.dumps(members)[1:]
        if not answer.warnings:
            return self._written
        return self._written[:-1] + b"," + orjson.dumps(wire_warnings(answer.warnings))[1:]
