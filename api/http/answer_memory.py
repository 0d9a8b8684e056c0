"""The memory that answers may take: a limit for each, and a limit for all of them together.

An answer is refused before anything is searched if its hits alone, each of the least size, would
be too many bytes. Texts and metadata vary, so the limits also hold while the answer is written. Its
memory is given back once its last byte was handed to the connection.
"""

import asyncio
from collections import deque
from collections.abc import Collection, Sequence

from api.http.time_slices import TimeSlice
from contracts.errors import RejectedRequest
from contracts.wire.client_messages import Query

# Smaller answers are not counted: there is always room for a health check and for a search.
SMALL_BYTES = 64 * 1024
# A hit without text, metadata and vector: measured 210 to 300 bytes with short ids.
_HIT_BYTES = 256
# One number of a vector: float16 written as JSON takes up to 22 digits, 17.2 and a comma on
# average; base64 takes four characters for three bytes.
_NUMBER_BYTES = 18
_HALF_BYTES = 8 / 3


def hits_bytes(k: int, include: Collection[str], dim: int) -> int:
    """Return the bytes of `k` hits as JSON, without their texts and metadata."""
    numbers = _NUMBER_BYTES * ("vector" in include) + _HALF_BYTES * ("vector_f16" in include)
    return int(k * (_HIT_BYTES + dim * numbers))


def answers_bytes(queries: Sequence[Query], dim: int) -> int:
    """Return the bytes of full answers to all `queries`, by `hits_bytes`."""
    return sum(hits_bytes(query.k, query.include, dim) for query in queries)


class AnswerBudget:
    """The bytes of all answers that are in memory now."""

    def __init__(self, *, one_max: int, all_max: int) -> None:
        self.one_max = one_max
        self._all_max = all_max
        self.used_bytes = 0
        # Bytes wanted, and the future that is set when it is their turn, in order of arrival.
        self._gate = asyncio.Lock()
        self._line: deque[tuple[int, asyncio.Future[None]]] = deque()

    def time_slice(self) -> TimeSlice:
        """The slices of one answer, which takes its turn among all of them."""
        return TimeSlice(self._gate)

    def reserve(self, expected: int) -> "BudgetShare":
        """Return room for one answer of about `expected` bytes. Raises RejectedRequest.

        The caller closes it.
        """
        share = BudgetShare(self)
        share.expect(expected)
        return share

    def take(self, more: int) -> None:
        """Count `more` bytes. Raises RejectedRequest with 503: a later request may find room."""
        if self.used_bytes + more > self._all_max:
            raise RejectedRequest(
                "too_many",
                f"answers_bytes_max: limit {self._all_max} bytes of answers in memory, "
                f"{self.used_bytes} are taken and {more} are needed; try later",
                status=503,
                field="k",
                limit=self._all_max,
                value=self.used_bytes + more,
            )
        self.used_bytes += more

    async def reserve_when_free(self, expected: int, timeout_s: float) -> "BudgetShare":
        """Return a share as `share` does, but wait up to `timeout_s` for room before refusing."""
        expected = min(expected, self.one_max)
        if self._line or self.used_bytes + expected > self._all_max:
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
        return self.reserve(expected)

    def give_back(self, taken: int) -> None:
        """Take so many bytes off the count, and let those go on that wait for them."""
        self.used_bytes -= taken
        self._advance()

    def _advance(self) -> None:
        """Let the first in line go on; they take their bytes within this turn of the loop."""
        room = self._all_max - self.used_bytes
        for size, turn in self._line:
            room -= size
            if room < 0:
                break
            if not turn.done():
                turn.set_result(None)


class BudgetShare:
    """The bytes of one answer, counted in an AnswerBudget."""

    __slots__ = ("_budget", "_taken", "_written")

    def __init__(self, budget: AnswerBudget) -> None:
        self._budget = budget
        self._taken = self._written = 0

    def expect(self, size: int) -> None:
        """Take room for an answer of about `size` bytes.

        Raises RejectedRequest if that is too much for one answer, or for all together.
        """
        if size > self._budget.one_max:
            raise _too_large(self._budget.one_max, f"about {size}", size)
        self._grow(size)

    def write(self, size: int) -> None:
        """Count `size` more bytes written. Raises RejectedRequest as `expect` does."""
        self._written += size
        limit = self._budget.one_max
        if self._written > limit:
            raise _too_large(limit, f"{self._written} or more", self._written)
        self._grow(self._written)

    def close(self) -> None:
        """Give all bytes back: the answer is no longer in memory."""
        self._budget.give_back(self._taken)
        self._taken = 0

    def _grow(self, size: int) -> None:
        if size > max(self._taken, SMALL_BYTES):
            self._budget.take(size - self._taken)
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
