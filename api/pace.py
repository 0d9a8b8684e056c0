"""Slices: work of one request that takes long gives the event loop back between them."""

import asyncio
from time import perf_counter

# What one request may compute before others get their turn.
STEP_S = 0.002


class Pace:
    """The slices of one request, begun with the first."""

    __slots__ = ("_until",)

    def __init__(self) -> None:
        self._until = perf_counter() + STEP_S

    async def rest(self) -> None:
        """Give others their turn where this slice is over; a slice that is not costs nothing."""
        if perf_counter() > self._until:
            await asyncio.sleep(0)
            self._until = perf_counter() + STEP_S
