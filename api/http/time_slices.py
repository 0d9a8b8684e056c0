"""Time slices for long computations of a request; between them the event loop runs others."""

import asyncio
from time import perf_counter

# Seconds that one request may compute before others run.
SLICE_S = 0.002


class TimeSlice:
    """The time slices of one request; several tasks may share them.

    Of all requests with the same `gate`, one computes in each turn of the loop. Otherwise ten large
    answers would make every turn ten slices long.
    """

    __slots__ = ("_gate", "_turn", "_until")

    def __init__(self, gate: asyncio.Lock | None = None) -> None:
        self._gate = gate
        self._turn = 0
        self._until = perf_counter() + SLICE_S

    async def yield_when_over(self) -> None:
        """Let other tasks run if this slice is over; otherwise return at once."""
        while perf_counter() > self._until:
            turn = self._turn
            if self._gate is None:
                await asyncio.sleep(0)
            else:
                async with self._gate:
                    await asyncio.sleep(0)
            # The first of the tasks that share the slices begins the next one for all of them.
            if self._turn == turn:
                self._turn += 1
                self._until = perf_counter() + SLICE_S
                return
