"""Bounds on HTTP pipelining: requests that a client sends before it has the first answer.

The parser cannot be stopped within a piece, and a piece of 64 KiB may contain 3,600 requests, each
of which costs kilobytes once it is parsed. So a piece that may contain too many is parsed in steps.
"""

from uvicorn.protocols.http.flow_control import FlowControl

# Parsed requests that wait for their answers; what follows them is not parsed yet.
PIPELINED_MAX = 32
# The shortest request has 18 bytes, so that a step adds at most 28 requests.
_STEP_BYTES = 512
# Every header ends in these bytes; the parser accepts no others.
_HEADER_END = b"\r\n\r\n"


class PausedFlow(FlowControl):
    """Flow control that keeps reading paused while bytes wait to be parsed (`held`)."""

    held = False

    def resume_reading(self) -> None:
        """Resume reading, unless bytes wait to be parsed."""
        if not self.held:
            super().resume_reading()


class PipelineBuffer:
    """The bytes that were read and not parsed yet, in their order."""

    def __init__(self) -> None:
        self._bytes = b""

    def __len__(self) -> int:
        return len(self._bytes)

    def add(self, data: bytes) -> None:
        """Append bytes that were read."""
        self._bytes = self._bytes + data if self._bytes else data

    def step(self, waiting: int) -> bytes:
        """Take the bytes that may be parsed while `waiting` requests wait for their answers."""
        if waiting >= PIPELINED_MAX:
            return b""
        if len(self._bytes) > _STEP_BYTES:
            # One more header may have begun in an earlier piece.
            ends = self._bytes.count(_HEADER_END) + 1
            if waiting + ends > PIPELINED_MAX:
                taken, self._bytes = self._bytes[:_STEP_BYTES], self._bytes[_STEP_BYTES:]
                return taken
        return self.rest()

    def rest(self) -> bytes:
        """Take all bytes."""
        taken, self._bytes = self._bytes, b""
        return taken
