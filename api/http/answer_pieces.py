"""A JSON answer that is written and sent in pieces, within the limits on answers in memory."""

import asyncio
from collections import deque
from collections.abc import Mapping

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from api.http.answer_memory import SMALL_BYTES, BudgetShare
from api.http.eager_start import run_until_blocked

# Bytes passed to the connection at a time; its buffer takes little more than one piece.
BODY_PIECE_BYTES = 128 * 1024


class AnswerBody:
    """The bytes of an answer, in pieces, counted against the limits on answers in memory.

    `whole` are the finished pieces, and `size` is their sum in bytes. The caller closes the body,
    or passes it to a StreamedAnswer, which closes it.
    """

    def __init__(self, share: BudgetShare) -> None:
        self._share = share
        self._parts: list[bytes] = []
        self._size = 0
        self.whole: deque[bytes | memoryview] = deque()
        self.size = 0

    def add(self, part: bytes) -> None:
        """Append bytes, and finish a piece if there are enough for one.

        They are counted once their piece is finished, here or in `end`, which raises
        RejectedRequest if the answer exceeds a limit.
        """
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
        """Finish the last piece. Raises RejectedRequest if the answer exceeds a limit."""
        if self._size:
            self._finish()

    def take(self, data: bytes) -> None:
        """Append `data` without a copy, and without counting it.

        The caller has reserved memory for it. Raises RejectedRequest as `end` does, for what was
        added before.
        """
        self.end()
        whole = memoryview(data)
        self.whole.extend(
            whole[n : n + BODY_PIECE_BYTES] for n in range(0, len(data), BODY_PIECE_BYTES)
        )
        self.size += len(data)

    def close(self) -> None:
        """Drop the bytes, and release their memory."""
        self.whole.clear()
        self._share.close()


class StreamedAnswer(Response):
    """A response in pieces, each of which is sent once the client has read those before it.

    If the client reads nothing for `timeout_s` seconds, the connection closes without the rest. The
    constructor finishes the last piece: it raises RejectedRequest if the answer exceeds a limit,
    and the caller then closes the body.
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
            # The connection takes a small response at once.
            await send({"type": "http.response.body", "body": b"".join(whole)})
            return
        more = len(whole) > 1
        while whole:
            await self._in_time(send, whole.popleft(), more=more)
        if more:
            # The connection takes this once its buffer is nearly empty: the client has read nearly
            # all, and the memory may be released.
            await self._in_time(send, b"", more=False)

    async def _in_time(self, send: Send, body: bytes | memoryview, *, more: bool) -> None:
        async def sending() -> None:
            await send({"type": "http.response.body", "body": body, "more_body": more})

        rest = run_until_blocked(sending())
        if rest is not None:
            async with asyncio.timeout(self._timeout_s):
                await rest
