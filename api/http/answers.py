"""The writer of all endpoints' answers: in time slices, and within the limits on memory."""

from collections.abc import Iterable, Mapping
from itertools import islice
from typing import Any

import orjson
from starlette.responses import Response

from api.http.answer_memory import AnswerBudget
from api.http.answer_pieces import AnswerBody, StreamedAnswer
from api.http.time_slices import TimeSlice
from api.node import Node

# Members of a list that are written at a time.
_AT_ONCE = 32


class ResponseWriter:
    """The writer of all responses of a node, which share one budget of memory."""

    def __init__(self, node: Node) -> None:
        settings = node.settings
        limit = settings.answers_bytes_max
        self.budget = AnswerBudget(one_max=min(settings.answer_bytes_max, limit), all_max=limit)
        self._timeout_s = settings.send_timeout_s

    def body(self, expected: int = 0) -> AnswerBody:
        """Return an empty body for an answer of about `expected` bytes. Raises RejectedRequest."""
        return AnswerBody(self.budget.reserve(expected))

    def response(self, pieces: AnswerBody, status: int = 200) -> Response:
        """Return the response that sends the pieces and closes them.

        Raises RejectedRequest if the last piece exceeds a limit; the caller then closes them.
        """
        return StreamedAnswer(pieces, timeout_s=self._timeout_s, status=status)

    def bytes(self, data: bytes, headers: Mapping[str, str], media_type: str) -> Response:
        """Return a response with bytes that are in memory, which count until the client has them.

        Raises RejectedRequest with 503 if they exceed the budget.
        """
        pieces = self.body(min(len(data), self.budget.one_max))
        pieces.take(data)
        timeout_s = self._timeout_s
        return StreamedAnswer(pieces, timeout_s=timeout_s, headers=headers, media_type=media_type)

    async def json(self, body: Mapping[str, Any], status: int = 200) -> Response:
        """Return a response with a JSON object.

        Its lists and iterators are written a few members at a time. Raises RejectedRequest if the
        answer exceeds a limit.
        """
        pieces = self.body()
        try:
            await _write(pieces, body, self.budget.time_slice())
            return self.response(pieces, status)
        except BaseException:
            pieces.close()
            raise


async def _write(pieces: AnswerBody, body: Mapping[str, Any], pace: TimeSlice) -> None:
    for number, (name, value) in enumerate(body.items()):
        pieces.add((b"," if number else b"{") + orjson.dumps(name) + b":")
        if isinstance(value, Mapping | str) or not isinstance(value, Iterable):
            pieces.add(orjson.dumps(value))
            continue
        members, comma = iter(value), b"["
        while some := list(islice(members, _AT_ONCE)):
            pieces.add(comma + orjson.dumps(some)[1:-1])
            comma = b","
            await pace.yield_when_over()
        pieces.add(b"[]" if comma == b"[" else b"]")
    pieces.add(b"}" if body else b"{}")
