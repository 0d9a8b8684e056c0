"""Long computations of a request in slices, between which the event loop serves others."""

import asyncio
from time import perf_counter

# How long one request may compute before others get their turn.
STEP_S = 0.002


class Pace:
    """The slices of one request, begun with the first; several tasks may share them."""

    __slots__ = ("_turn", "_until")

    def __init__(self) -> None:
        self._turn = 0
        self._until = perf_counter() + STEP_S

    async def rest(self) -> None:
        """Let others run if this slice is over; otherwise return at once."""
        while perf_counter() > self._until:
            turn = self._turn
            await asyncio.sleep(0)
            # The first of the tasks that share this object begins the next slice for all.
            if self._turn == turn:
                self._turn += 1
                self._until = perf_counter() + STEP_S
                return
