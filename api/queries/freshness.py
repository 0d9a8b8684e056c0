"""How far the index is behind the log, measured in the background so that no answer waits for it.

It also knows whether the broker answers, since it asks every second.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from math import nan

import structlog

from api.node import Node
from contracts.errors import BrokerUnavailable, NotReady
from contracts.ports.lag import Lag

log = structlog.get_logger(__name__)

_EVERY_S = 1.0


class Freshness:
    """The last lag measured. `run` must be running; before its first answer nothing is known."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._lags: Sequence[Lag] | None = None
        # The rows of `_lags` that show how far this node is behind.
        self._behind: Sequence[Lag] = ()
        self._showing = asyncio.Lock()
        self.broker = "unknown"
        self._why_away = ""
        names, settings = node.names, node.settings
        self._group = names.index_group(settings.shard, settings.replica)

    async def run(self) -> None:
        """Measure until cancelled. A broker that is away is no failure of this node."""
        while True:
            await self.measure()
            await asyncio.sleep(_EVERY_S)

    async def measure(self) -> Sequence[Lag]:
        """Ask now, remember, and set the gauges. Raises nothing for a broker that is away."""
        metrics = self._node.metrics
        try:
            lags = await self._node.lag.lag()
        except BrokerUnavailable as error:
            # Written again when the reason changes, as when the broker moves to an address out of
            # reach.
            if (self.broker, self._why_away) != ("unreachable", str(error)):
                log.warning("the broker does not answer", error=str(error))
            self.broker, self._why_away = "unreachable", str(error)
            async with self._showing:
                await asyncio.to_thread(metrics.clear_lag)
        except Exception:
            # Old figures would look as if they were still true.
            self.broker, self._lags = "unknown", None
            metrics.behind_seconds.set(nan)
            async with self._showing:
                await asyncio.to_thread(metrics.clear_lag)
            raise
        else:
            if self.broker == "unreachable":
                log.info("the broker answers again")
            self.broker = "reachable"
            self._lags = lags
            self._behind = [lag for lag in lags if lag.waiting and self._is_before_us(lag)]
            ours = [lag for lag in lags if self._is_ours(lag)]
            async with self._showing:
                # In a thread: with thousands of partitions it takes longer than a search may wait.
                await asyncio.to_thread(metrics.set_lag, ours, self._node.clock.now())
        behind_s = self.behind_s()
        metrics.behind_seconds.set(nan if behind_s is None else behind_s)
        return self._lags or []

    def behind_s(self) -> float | None:
        """Age of the oldest content record not yet in the index; None while that is unknown.

        While the broker is away: of the oldest one known, since there may be others by now.
        """
        if self._lags is None:
            return None
        behind = [left for lag in self._behind if (left := self._left(lag)) is not None]
        age_s = round(self._node.lag.behind_s(behind), 3)
        return None if self.broker == "unreachable" and not age_s else age_s

    def _is_ours(self, lag: Lag) -> bool:
        return lag.space == self._node.space.name

    def _is_before_us(self, lag: Lag) -> bool:
        """Other nodes may be behind this one; what they lack is here all the same."""
        return self._is_ours(lag) and (lag.role == "encode" or lag.group == self._group)

    def _left(self, lag: Lag) -> Lag | None:
        """Return what is left of a row: this index may be past it, since rows come on a timer."""
        target = self._node.names.target_of(lag.topic)
        if lag.group != self._group or target is None:
            return lag
        try:
            position = self._node.searcher.as_of().offsets[target][lag.partition]
        except NotReady:
            return lag
        if position < lag.end:
            return lag
        # The index is past that row's stable offset: records unstable then may be stable and here.
        left = replace(lag, records=0, unstable=max(0, lag.high_watermark - position))
        return left if left.waiting else None


async def not_ready_reason(node: Node) -> str | None:
    """Why this node cannot answer now, or None when it can; the searcher itself is asked."""
    try:
        await node.searcher.search([])
    except NotReady as error:
        return str(error)
    return None
