"""Long computations of a request in slices, between which the event loop serves others."""

import asyncio
from time import perf_counter

# How long one request may compute before others get their turn.
SLICE_S = 0.002


class TimeSlice:
    """The slices of one request, begun with the first; several tasks may share them.

    Those with one `gate` go on one at a time: in each turn of the loop, one of them computes. Ten
    large answers would otherwise make every turn ten slices long.
    """

    __slots__ = ("_gate", "_turn", "_until")

    def __init__(self, gate: asyncio.Lock | None = None) -> None:
        self._gate = gate
        self._turn = 0
        self._until = perf_counter() + SLICE_S

    async def yield_when_over(self) -> None:
        """Give others their turn where this slice is over; otherwise return at once."""
        while perf_counter() > self._until:
            turn = self._turn
            if self._gate is None:
                await asyncio.sleep(0)
            else:
                async with self._gate:
                    await asyncio.sleep(0)
            # The first of those that share it begins the next slice, for all of them.
            if self._turn == turn:
                self._turn += 1
                self._until = perf_counter() + SLICE_S
                return
