"""Limits on the memory of answers: one for each answer, and one for all of them together.

An answer is refused before the search if its hits alone, each of the least size, would exceed a
limit. The sizes of texts and metadata vary, so the limits also apply while the answer is written.
Its memory is released once its last byte was passed to the connection.
"""

import asyncio
from collections import deque
from collections.abc import Collection, Sequence

from api.http.time_slices import TimeSlice
from contracts.errors import RejectedRequest
from contracts.wire.client_messages import Query

# Smaller answers are not counted, so that health checks and small searches are always answered.
SMALL_BYTES = 64 * 1024
# Bytes of a hit without text, metadata and vector; 210 to 300 were measured with short ids.
_HIT_BYTES = 256
# Bytes of one number of a vector. As JSON, a float16 has up to 22 digits, on average 17.2 and a
# comma; in base64, three bytes take four characters.
_NUMBER_BYTES = 18
_HALF_BYTES = 8 / 3


def hits_bytes(k: int, include: Collection[str], dim: int) -> int:
    """Return an estimate of the bytes of `k` hits as JSON, without texts and metadata."""
    numbers = _NUMBER_BYTES * ("vector" in include) + _HALF_BYTES * ("vector_f16" in include)
    return int(k * (_HIT_BYTES + dim * numbers))


def answers_bytes(queries: Sequence[Query], dim: int) -> int:
    """Return the estimated bytes of answers to all `queries`, each with `k` hits."""
    return sum(hits_bytes(query.k, query.include, dim) for query in queries)


class AnswerBudget:
    """The bytes of all answers that are in memory now, and their limits.

    `one_max` bounds one answer, `all_max` all of them.
    """

    def __init__(self, *, one_max: int, all_max: int) -> None:
        self.one_max = one_max
        self._all_max = all_max
        self.used_bytes = 0
        self._gate = asyncio.Lock()
        # Requested bytes, and the future that is set when they are free, in order of arrival.
        self._queue: deque[tuple[int, asyncio.Future[None]]] = deque()

    def time_slice(self) -> TimeSlice:
        """Return the time slices of one answer, which takes turns with all other answers."""
        return TimeSlice(self._gate)

    def reserve(self, expected: int) -> "BudgetShare":
        """Reserve memory for one answer of about `expected` bytes. Raises RejectedRequest.

        The caller closes the share.
        """
        share = BudgetShare(self)
        share.expect(expected)
        return share

    def take(self, more: int) -> None:
        """Count `more` bytes. Raises RejectedRequest with 503, since they may be free later."""
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
        """Reserve memory as `reserve` does, after waiting for it up to `timeout_s` seconds."""
        expected = min(expected, self.one_max)
        if self._queue or self.used_bytes + expected > self._all_max:
            turn = asyncio.get_running_loop().create_future()
            self._queue.append((expected, turn))
            try:
                async with asyncio.timeout(timeout_s):
                    await turn
            except TimeoutError:
                pass  # `reserve` refuses, unless the memory is free by now
            finally:
                self._queue = deque(one for one in self._queue if one[1] is not turn)
                self._advance()
        return self.reserve(expected)

    def give_back(self, taken: int) -> None:
        """Release `taken` bytes, and let answers that wait for them go on."""
        self.used_bytes -= taken
        self._advance()

    def _advance(self) -> None:
        """Let the first of the queue go on; they count their bytes within this turn of the loop."""
        room = self._all_max - self.used_bytes
        for size, turn in self._queue:
            room -= size
            if room < 0:
                break
            if not turn.done():
                turn.set_result(None)


class BudgetShare:
    """The part of an AnswerBudget that one answer uses."""

    __slots__ = ("_budget", "_taken", "_written")

    def __init__(self, budget: AnswerBudget) -> None:
        self._budget = budget
        self._taken = self._written = 0

    def expect(self, size: int) -> None:
        """Reserve memory for an answer of about `size` bytes.

        Raises RejectedRequest if that is too much for one answer, or for all of them together.
        """
        if size > self._budget.one_max:
            raise _too_large(self._budget.one_max, f"about {size}", size)
        self._grow(size)

    def write(self, size: int) -> None:
        """Count `size` bytes that were written. Raises RejectedRequest as `expect` does."""
        self._written += size
        limit = self._budget.one_max
        if self._written > limit:
            raise _too_large(limit, f"{self._written} or more", self._written)
        self._grow(self._written)

    def close(self) -> None:
        """Release all bytes, since the answer is no longer in memory."""
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
