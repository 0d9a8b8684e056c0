"""The port of lag: how far encoders and index nodes are behind the event log."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Lag:
    """The lag of one group in one partition.

    `records` and `seconds` count what is left to process up to `end`, the last stable offset. An
    open transaction holds `unstable` more records back, up to the high watermark, and has done so
    for `unstable_seconds`. `members` is the number of processes that do the group's work, or None
    where it is unknown.
    """

    role: str
    group: str
    topic: str
    partition: int
    position: int
    end: int
    records: int
    seconds: float
    space: str
    unstable: int = 0
    unstable_seconds: float = 0.0
    members: int | None = None

    @property
    def high_watermark(self) -> int:
        """The offset after the last record, those of open transactions included."""
        return self.end + self.unstable

    @property
    def waiting(self) -> bool:
        """Return whether the partition has records that the group has not processed."""
        return self.records > 0 or self.unstable > 0

    @property
    def gone(self) -> bool:
        """Return whether this is an index node that does not run, so that nothing waits for it."""
        return self.role == "index" and self.members == 0

    @property
    def unattended(self) -> bool:
        """Return whether no encoder runs; it is not `gone`, since published items wait for one."""
        return self.role == "encode" and self.members == 0


class LagSource(Protocol):
    """A source of the lag of encoders and index nodes against the last stable offset.

    It covers the space that the process works on and the spaces that are kept or made beside it.
    """

    async def lag(self) -> list[Lag]:
        """Ask the broker for the lag. Raises BrokerUnavailable."""
        ...

    def behind_s(self, lags: Sequence[Lag]) -> float:
        """Return the age in seconds of the oldest content record that `lags` show as waiting, or 0.

        Groups that are gone do not count.
        """
        ...
