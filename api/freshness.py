"""How far the index is behind the log, measured in the background so that no answer waits for it.

Also the node's knowledge of whether the broker answers: what asks it every second knows best.
"""

import asyncio
from collections.abc import Sequence

import structlog

from api.node import Node
from contracts.errors import BrokerUnavailable, NotReady
from contracts.ports import Lag

log = structlog.get_logger(__name__)

_EVERY_S = 1.0


class Freshness:
    """The last lag measured. `run` must be running; before its first answer nothing is known."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._lags: Sequence[Lag] | None = None
        self.broker = "unknown"
        names, settings = node.names, node.settings
        self._group = names.index_group(settings.shard, settings.replica)

    async def run(self) -> None:
        """Measure until cancelled. A broker that is away is no failure of this node."""
        while True:
            await self.measure()
            await asyncio.sleep(_EVERY_S)

    async def measure(self) -> list[Lag]:
        """Ask now, remember, and set the gauges. Raises nothing for a broker that is away."""
        try:
            lags = await self._node.lag.lag()
        except BrokerUnavailable as error:
            if self.broker != "unreachable":
                log.warning("the broker does not answer", error=str(error))
            self.broker = "unreachable"
            lags = list(self._lags or [])
        else:
            if self.broker == "unreachable":
                log.info("the broker answers again")
            self.broker = "reachable"
            self._lags = lags
        self._show(lags)
        return lags

    def behind_s(self) -> float | None:
        """Age of the oldest content record not yet in the index; None while that is unknown."""
        if self._lags is None:
            return None
        return round(self._node.lag.behind_s([lag for lag in self._lags if not self._done(lag)]), 3)

    def _done(self, lag: Lag) -> bool:
        """Whether this index is past that row by now: its group's offsets come late, on a timer."""
        target = self._node.names.target_of(lag.topic)
        if lag.group != self._group or target is None:
            return False
        try:
            return self._node.searcher.as_of().offsets[target][lag.partition] >= lag.end
        except NotReady:
            return False

    def _show(self, lags: Sequence[Lag]) -> None:
        metrics = self._node.metrics
        for lag in lags:
            labels = (lag.role, lag.group, lag.topic, str(lag.partition))
            metrics.lag_records.labels(*labels).set(lag.records)
            metrics.lag_seconds.labels(*labels).set(lag.seconds)
        metrics.behind_seconds.set(self.behind_s() or 0.0)


async def not_ready_reason(node: Node) -> str | None:
    """Why this node cannot answer now, or None when it can; the searcher itself is asked."""
    try:
        await node.searcher.search([])
    except NotReady as error:
        node.metrics.ready.set(0)
        return str(error)
    node.metrics.ready.set(1)
    return None
