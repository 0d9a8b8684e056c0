"""What answers may take in memory: a limit for one, and a limit for all together.

An answer is refused before anything is searched where its hits alone would be too many bytes, by
what a hit takes at least. Texts and metadata vary, so the limit also holds while it is written.
What it takes is given back once its last byte was handed to the connection.
"""

import asyncio
from collections import deque
from collections.abc import Collection, Sequence

from contracts.errors import RejectedRequest
from contracts.messages import Query

# Answers below that are not counted: there is always room for a health check, and for a search.
SMALL_BYTES = 64 * 1024
# A hit without text, metadata and vector: measured 210 to 300 bytes with short ids.
_HIT_BYTES = 256
# One number of a vector: float16 written as JSON takes up to 22 digits, 17.2 and a comma on
# average; base64 takes four characters for three bytes.
_NUMBER_BYTES = 18
_HALF_BYTES = 8 / 3


def hits_bytes(k: int, include: Collection[str], dim: int) -> int:
    """What `k` hits take as JSON, texts and metadata left out."""
    numbers = _NUMBER_BYTES * ("vector" in include) + _HALF_BYTES * ("vector_f16" in include)
    return int(k * (_HIT_BYTES + dim * numbers))


def answers_bytes(queries: Sequence[Query], dim: int) -> int:
    return sum(hits_bytes(query.k, query.include, dim) for query in queries)


class Allowance:
    """The bytes of all answers that are in memory now."""

    def __init__(self, *, one_max: int, all_max: int) -> None:
        self.one_max = one_max
        self._all_max = all_max
        self.held = 0
        # Who waits for how many bytes, in line.
        self._line: deque[tuple[int, asyncio.Future[None]]] = deque()

    def share(self, expected: int) -> "Share":
        """Room for one answer of about so many bytes; `close` it. Raises RejectedRequest."""
        share = Share(self, self.one_max)
        share.expect(expected)
        return share

    def take(self, more: int) -> None:
        """Raises RejectedRequest with 503: the same may be answered a moment later."""
        if self.held + more > self._all_max:
            raise RejectedRequest(
                "too_many",
                f"answers_bytes_max: limit {self._all_max} bytes of answers in memory, "
                f"{self.held} are taken and {more} are needed; try later",
                status=503,
                field="k",
                limit=self._all_max,
                value=self.held + more,
            )
        self.held += more

    async def wait(self, expected: int, timeout_s: float) -> "Share":
        """The same for what is not refused but waits in line. Raises RejectedRequest after that."""
        expected = min(expected, self.one_max)
        if self._line or self.held + expected > self._all_max:
            turn = asyncio.get_running_loop().create_future()
            self._line.append((expected, turn))
            try:
                async with asyncio.timeout(timeout_s):
                    await turn
            except TimeoutError:
                pass  # then `share` refuses, or there is room by now
            finally:
                self._line = deque(one for one in self._line if one[1] is not turn)
                self._advance()
        return self.share(expected)

    def give_back(self, taken: int) -> None:
        self.held -= taken
        self._advance()

    def _advance(self) -> None:
        """Let those first in line go on, who take what they need in this turn of the loop."""
        room = self._all_max - self.held
        for size, turn in self._line:
            room -= size
            if room < 0:
                break
            if not turn.done():
                turn.set_result(None)


class Share:
    """What one answer takes of it."""

    __slots__ = ("_allowance", "_one_max", "_taken", "_written")

    def __init__(self, allowance: Allowance, one_max: int) -> None:
        self._allowance = allowance
        self._one_max = one_max
        self._taken = self._written = 0

    def expect(self, size: int) -> None:
        """Raises RejectedRequest where that is too much for one answer, or for all together."""
        if size > self._one_max:
            raise _too_large(self._one_max, f"about {size}", size)
        self._grow(size)

    def write(self, size: int) -> None:
        """So many bytes more were written. Raises RejectedRequest."""
        self._written += size
        if self._written > self._one_max:
            raise _too_large(self._one_max, f"{self._written} or more", self._written)
        self._grow(self._written)

    def close(self) -> None:
        """The answer is no longer in memory."""
        self._allowance.give_back(self._taken)
        self._taken = 0

    def _grow(self, size: int) -> None:
        if size > max(self._taken, SMALL_BYTES):
            self._allowance.take(size - self._taken)
            self._taken = size


def _too_large(limit: int, described: str, size: int) -> RejectedRequest:
    return RejectedRequest(
        "answer_too_large",
        f"answer_bytes_max: limit {limit} bytes of answer, got {described}; ask for fewer hits "
        "(k, queries), or for vector_f16 instead of vector",
        field="k",
        limit=limit,
        value=size,
    )
