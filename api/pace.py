"""Slices: work of one request that takes long gives the event loop back between them."""

import asyncio
from time import perf_counter

# What one request may compute before others get their turn.
STEP_S = 0.002


class Pace:
    """The slices of one request, begun with the first; several tasks may share them."""

    __slots__ = ("_turn", "_until")

    def __init__(self) -> None:
        self._turn = 0
        self._until = perf_counter() + STEP_S

    async def rest(self) -> None:
        """Give others their turn where this slice is over; one that is not costs nothing."""
        while perf_counter() > self._until:
            turn = self._turn
            await asyncio.sleep(0)
            # The first of those that share it begins the next slice, for all of them.
            if self._turn == turn:
                self._turn += 1
                self._until = perf_counter() + STEP_S
                return
