"""The lag of the index behind the log, measured in the background so that no answer waits for it.

The measurement asks the broker every second, so it also shows whether the broker answers.
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
    """The last measured lag. `run` must be running; before its first result nothing is known."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._lags: Sequence[Lag] | None = None
        # The rows of `_lags` from which `behind_s` is computed.
        self._behind: Sequence[Lag] = ()
        self._showing = asyncio.Lock()
        self.broker = "unknown"
        self._unreachable_reason = ""
        names, settings = node.names, node.settings
        self._group = names.index_group(settings.shard, settings.replica)

    async def run(self) -> None:
        """Measure until cancelled. An unreachable broker is not a failure of this node."""
        while True:
            await self.measure()
            await asyncio.sleep(_EVERY_S)

    async def measure(self) -> Sequence[Lag]:
        """Measure now, set the gauges, and return the rows of all groups and partitions.

        If the broker is unreachable, the rows of the last measurement are returned.
        """
        metrics = self._node.metrics
        try:
            lags = await self._node.lag.lag()
        except BrokerUnavailable as error:
            # Logged again when the reason changes, for example when the broker moves to an
            # unreachable address.
            if (self.broker, self._unreachable_reason) != ("unreachable", str(error)):
                log.warning("the broker does not answer", error=str(error))
            self.broker, self._unreachable_reason = "unreachable", str(error)
            async with self._showing:
                await asyncio.to_thread(metrics.clear_lag)
        except Exception:
            # Old values would look like current ones.
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
            self._behind = [lag for lag in lags if lag.waiting and self._delays_this_node(lag)]
            own = [lag for lag in lags if self._is_of_space(lag)]
            async with self._showing:
                # In a thread: with thousands of partitions it takes longer than a search may wait.
                await asyncio.to_thread(metrics.set_lag, own, self._node.clock.now())
        behind_s = self.behind_s()
        metrics.behind_seconds.set(nan if behind_s is None else behind_s)
        return self._lags or []

    def behind_s(self) -> float | None:
        """Return the age in seconds of the oldest content record that is not in the index yet.

        The age is None while it is unknown. While the broker is unreachable, it is that of the
        oldest known record, and None without one, since there may be others by now.
        """
        if self._lags is None:
            return None
        behind = [left for lag in self._behind if (left := self._left(lag)) is not None]
        age_s = round(self._node.lag.behind_s(behind), 3)
        return None if self.broker == "unreachable" and not age_s else age_s

    def _is_of_space(self, lag: Lag) -> bool:
        return lag.space == self._node.space.name

    def _delays_this_node(self, lag: Lag) -> bool:
        """Return whether a row shows records that this node lacks; other nodes may lack more."""
        return self._is_of_space(lag) and (lag.role == "encode" or lag.group == self._group)

    def _left(self, lag: Lag) -> Lag | None:
        """Return the rest of a row, since the index may have moved on after it was measured."""
        target = self._node.names.target_of(lag.topic)
        if lag.group != self._group or target is None:
            return lag
        try:
            position = self._node.searcher.as_of().offsets[target][lag.partition]
        except NotReady:
            return lag
        if position < lag.end:
            return lag
        # The index has passed the row's stable offset, so unstable records may be indexed by now.
        left = replace(lag, records=0, unstable=max(0, lag.high_watermark - position))
        return left if left.waiting else None


async def not_ready_reason(node: Node) -> str | None:
    """Return why this node cannot answer searches now, or None if it can: it tries an empty one."""
    try:
        await node.searcher.search([])
    except NotReady as error:
        return str(error)
    return None
