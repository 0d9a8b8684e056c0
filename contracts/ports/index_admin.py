"""The port of an operator's commands to a running index node."""

from collections.abc import Sequence
from typing import Any, Protocol

from contracts.topics import Target


class IndexAdmin(Protocol):
    """The commands of an operator to a running index node. All of them raise NotReady."""

    async def snapshot(self) -> dict[str, Any]:
        """Write a snapshot now. Raises SnapshotFailed."""
        ...

    async def restore(self, name: str) -> dict[str, Any]:
        """Let the next start restore this replica's snapshot `name`; write no other until then.

        Raises SnapshotRefused where a start could not use it, and SnapshotFailed.
        """
        ...

    async def rebuild(self, targets: Sequence[Target]) -> list[dict[str, Any]]:
        """Merge all segments of each target, and return what was built. Raises RebuildFailed."""
        ...

    async def verify(self) -> dict[str, Any]:
        """Recompute the digests from the rows, and return whether they are right."""
        ...

    def segments(self) -> list[dict[str, Any]]:
        """Return the growing and sealed segments with their tuning tables."""
        ...
