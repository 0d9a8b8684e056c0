"""The positions up to which one session has claimed and committed its partitions."""

import asyncio

from contracts.events.record import Positions, TopicPartition


class ClaimProgress:
    """The positions up to which records were claimed, and up to which they are committed.

    Both start at `starts`. The session is drained once every claim is committed.
    """

    def __init__(self, starts: Positions) -> None:
        self._claimed = dict(starts)
        self._committed = dict(starts)
        self._drained = asyncio.Event()
        self._drained.set()

    def claim(self, partition: TopicPartition, position: int) -> bool:
        """Advance the claimed position; return whether it moved, so that something was claimed."""
        if position <= self._claimed[partition]:
            return False
        self._claimed[partition] = position
        self._compare()
        return True

    def commit(self, partition: TopicPartition, position: int) -> None:
        """Record that everything before `position` is committed."""
        self._committed[partition] = position
        self._compare()

    async def wait_until_drained(self) -> None:
        """Return once everything that was claimed is committed."""
        await self._drained.wait()

    def _compare(self) -> None:
        if self._committed == self._claimed:
            self._drained.set()
        else:
            self._drained.clear()
