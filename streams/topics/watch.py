"""Reports of topics that are no longer as they were created.

Nobody reads partitions that were added, and embeddings in a partition where their key does not
belong change nothing in the index. Neither is an error of a record or of a node, so without this
module nobody would notice.
"""

import asyncio
from collections.abc import Callable
from typing import Any

import structlog

from contracts.metrics import Metrics
from contracts.ports.event_log import AddedPartitions, EventLog
from contracts.topics import TARGETS, Names
from streams.topics.partition_counts import how_to_add_partitions

log = structlog.get_logger(__name__)

EVERY_S = 10.0


class TopicWatch:
    """A watch of a collection's topics; `misplaced` returns the number of skipped embeddings."""

    def __init__(
        self,
        event_log: EventLog,
        names: Names,
        metrics: Metrics,
        misplaced: Callable[[], int] = lambda: 0,
    ) -> None:
        self._log = event_log
        self._names = names
        self._metrics = metrics
        self._misplaced = misplaced
        self._topics = [f(target) for f in (names.content, names.embeddings) for target in TARGETS]
        self._added: list[AddedPartitions] = []
        self._told_misplaced = 0

    async def run(self) -> None:
        while True:
            await self.check()
            await asyncio.sleep(EVERY_S)

    async def check(self) -> None:
        """Check the topics now. Raises BrokerUnavailable, and TopicMismatch for an absent topic."""
        misplaced = self._misplaced()
        if misplaced > self._told_misplaced:
            log.warning(
                "embeddings in other partitions than their own",
                reason=_misplaced_warning(misplaced),
            )
        self._told_misplaced = misplaced
        before, self._added = self._added, await self._log.added_partitions(self._topics)
        added = {one.topic: one.current_count - one.created_count for one in self._added}
        for topic in self._topics:
            self._metrics.partitions_added.labels(topic).set(added.get(topic, 0))
        if self._added != before:
            for one in self._added:
                advice = how_to_add_partitions(self._names.prefix, one.current_count)
                log.warning("partitions were added to a topic", reason=str(one), advice=advice)

    def describe(self) -> dict[str, Any]:
        """Return what `/readyz` and `/v1/status` say about topics that have changed."""
        warnings = [str(one) for one in self._added]
        misplaced = self._misplaced()
        if misplaced:
            warnings.append(_misplaced_warning(misplaced))
        now = max((one.current_count for one in self._added), default=0)
        advice = how_to_add_partitions(self._names.prefix, now) if now else None
        return {"warnings": warnings, "misplaced": misplaced, "advice": advice}


def _misplaced_warning(misplaced: int) -> str:
    return (
        f"{misplaced} embeddings were passed over, because they are in other partitions than their "
        "ids say: they were written with another partition count or TIDELENS_PARTITIONER, and "
        "searches do not find their items"
    )
