"""A JSON answer written and sent in pieces, within what answers may take in memory."""

import asyncio
from collections import deque
from collections.abc import Mapping

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from api.http.answer_memory import SMALL_BYTES, BudgetShare
from api.live.eager_start import begun

# Written into the connection's buffer at a time; it holds little more than one.
BODY_PIECE_BYTES = 128 * 1024


class AnswerBody:
    """Bytes of an answer, kept in pieces. Adding raises RejectedRequest if they are too many.

    Their maker calls `close`, or hands them to the response, which does.
    """

    def __init__(self, share: BudgetShare) -> None:
        self._share = share
        self._parts: list[bytes] = []
        self._size = 0
        self.whole: deque[bytes | memoryview] = deque()
        self.size = 0

    def add(self, part: bytes) -> None:
        self._parts.append(part)
        self._size += len(part)
        if self._size >= BODY_PIECE_BYTES:
            self._finish()

    def _finish(self) -> None:
        self._share.write(self._size)
        self.whole.append(b"".join(self._parts))
        self.size += self._size
        self._parts, self._size = [], 0

    def end(self) -> None:
        """Finish the last piece: nothing more is added."""
        if self._size:
            self._finish()

    def take(self, data: bytes) -> None:
        """Add bytes that are in memory already, and count already: they are sent without a copy."""
        whole = memoryview(data)
        self.whole.extend(
            whole[n : n + BODY_PIECE_BYTES] for n in range(0, len(data), BODY_PIECE_BYTES)
        )
        self.size = len(data)

    def close(self) -> None:
        self.whole.clear()
        self._share.close()


class StreamedAnswer(Response):
    """The response: each piece is released once the client has taken those before it.

    If a client takes none in time, its connection closes without the rest.
    """

    def __init__(
        self,
        pieces: AnswerBody,
        *,
        timeout_s: float,
        status: int = 200,
        headers: Mapping[str, str] | None = None,
        media_type: str = "application/json",
    ) -> None:
        pieces.end()
        length = {"content-length": str(pieces.size)}
        super().__init__(None, status, {**(headers or {}), **length}, media_type)
        self._pieces = pieces
        self._timeout_s = timeout_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await self._send(send)
        except TimeoutError:
            return
        finally:
            self._pieces.close()

    async def _send(self, send: Send) -> None:
        start = {"type": "http.response.start", "status": self.status_code}
        await send({**start, "headers": self.raw_headers})
        whole = self._pieces.whole
        if self._pieces.size <= SMALL_BYTES:
            # The connection takes it at once, as any other response.
            await send({"type": "http.response.body", "body": b"".join(whole)})
            return
        more = len(whole) > 1
        while whole:
            await self._in_time(send, whole.popleft(), more=more)
        if more:
            # The connection takes this only once its buffer is nearly empty: then all was taken.
            await self._in_time(send, b"", more=False)

    async def _in_time(self, send: Send, body: bytes | memoryview, *, more: bool) -> None:
        async def sending() -> None:
            await send({"type": "http.response.body", "body": body, "more_body": more})

        rest = begun(sending())
        if rest is not None:
            async with asyncio.timeout(self._timeout_s):
                await rest
