"""The alerts that wait for a pass over the log, and the tasks that make these passes.

A pass (api.live.matches.replay_pass) reads for many alerts together: after a restart, all clients
come back at once and from about the same position. It ends after a number of records, and alerts
that are not live then wait for another pass.
"""

import asyncio
from itertools import islice

import structlog

from api.live.limits import AlertLimits, ReplayLimits
from api.live.matches.alert import Alert, AlertState
from api.live.matches.alert_set import AlertSet
from api.live.matches.offsets import Offsets
from api.live.matches.replay_pass import ReplayPass
from api.node import Node
from contracts.errors import BrokerUnavailable, NotReady
from contracts.wire.as_of import AsOf

log = structlog.get_logger(__name__)


class AlertReplay:
    """The owner of the alerts, which reads the log for those that are not live."""

    def __init__(
        self,
        node: Node,
        alert_limits: AlertLimits | None = None,
        limits: ReplayLimits | None = None,
    ) -> None:
        self._node = node
        self._limits = limits or ReplayLimits()
        self.alerts = AlertSet(node.matcher, self.replay, alert_limits)
        # The queued alerts that are near the index, and those far behind it. The queues take turns,
        # so that clients that were away for long, or say so, do not keep the others from being
        # live.
        self._near: dict[Alert, None] = {}
        self._far: dict[Alert, None] = {}
        self._turn = 0
        self._workers: set[asyncio.Task[None]] = set()

    def waiting(self) -> int:
        """Return how many alerts are queued."""
        return len(self._near) + len(self._far)

    def remove(self, alert: Alert) -> None:
        """Forget an alert, in whatever state it is."""
        self._near.pop(alert, None)
        self._far.pop(alert, None)
        self.alerts.remove(alert)

    def replay(self, alert: Alert) -> None:
        """Queue an alert, to be read up to the index's state."""
        self._enqueue(alert)
        if len(self._workers) < self._limits.passes_max:
            self._workers.add(asyncio.create_task(self._work(), name="rereading"))

    async def _work(self) -> None:
        try:
            await self._node.side.until_done("rereading", self._read_all)
        finally:
            # In the turn in which the queues were found empty: an alert that comes later must not
            # find this worker among those at work.
            self._workers.discard(asyncio.current_task())

    async def _read_all(self) -> None:
        while self.waiting():
            if self.alerts.is_full:
                await asyncio.sleep(self._limits.retry_s)
                continue
            replay_pass = ReplayPass(self._node, self.alerts, self._take_next(), self._limits)
            try:
                await replay_pass.run()
            except (NotReady, BrokerUnavailable) as error:
                log.info("alerts wait for a pass over the log", error=str(error))
                await asyncio.sleep(self._limits.retry_s)
            except Exception as error:
                for alert in replay_pass.left:
                    if alert in self.alerts:
                        alert.fail(error)
                continue
            for alert in replay_pass.left:
                if alert not in self.alerts:
                    continue
                if alert.is_full:
                    alert.move_to(AlertState.PAUSED)
                else:
                    self._enqueue(alert)

    def _enqueue(self, alert: Alert) -> None:
        alert.move_to(AlertState.QUEUED)
        try:
            now = self._node.searcher.as_of()
        except NotReady:
            now = alert.position
        (self._near if self._are_near(alert, now) else self._far)[alert] = None

    def _take_next(self) -> list[Alert]:
        """Take the alert that has waited longest, and others that one pass can read for with it.

        At least one alert must be queued.
        """
        self._turn += 1
        queues = (self._near, self._far) if self._turn % 2 else (self._far, self._near)
        queue = queues[0] or queues[1]
        first = next(iter(queue))
        taken = [
            alert
            for alert in islice(queue, self._limits.examined_max)
            if alert.target == first.target and self._are_near(alert, first.position)
        ][: self._limits.alerts_max]
        for alert in taken:
            del queue[alert]
            alert.move_to(AlertState.REPLAYING)
        return taken

    def _are_near(self, alert: Alert, state: AsOf) -> bool:
        """Return whether the records between the alert's position and a state are read quickly."""
        position, target = alert.position, alert.target
        if (position.space, position.epoch) != (state.space, state.epoch):
            return False
        between = Offsets(position.offsets[target]).distance(state.offsets[target])
        return between <= self._limits.near_records_max
