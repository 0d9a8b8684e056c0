"""The offsets that a node commits to its group, which are for dashboards only."""

from collections.abc import Mapping

import structlog

from contracts import fault_points
from contracts.events.record import Positions, TopicPartition
from contracts.ports.event_log import EventLog

log = structlog.get_logger(__name__)


class GroupOffsets:
    """The positions that a node commits to its group, so that Kafka's own tools show the lag."""

    def __init__(self, event_log: EventLog, group: str) -> None:
        self._log = event_log
        self._group = group
        self._committed: Mapping[TopicPartition, int] = {}

    async def restart(self) -> Positions:
        """Forget the commits of another index, and return what the group has committed."""
        self._committed = {}
        return await self._log.committed(self._group)

    async def commit(self, positions: Positions) -> None:
        """Commit `positions`, unless they are the last ones that were committed."""
        if positions == self._committed:
            return
        committed = dict(positions)
        await self._log.commit(self._group, committed)
        self._committed = committed
        fault_points.reach("index.committed")

    async def has_changed(self) -> bool:
        """Return whether the group has other offsets than those committed last.

        Somebody may have reset them, and the broker forgets them a week after the last commit. The
        next `commit` then writes them again.
        """
        last = self._committed
        found = await self._log.committed(self._group)
        # A commit made in between is newer than what was found.
        if last is not self._committed or all(found.get(tp) == at for tp, at in last.items()):
            return False
        log.warning("the group's offsets were changed or have expired: committing them again")
        self._committed = {}
        return True
