"""The times at which an encoder had seen everything in its partitions (invariant 7)."""

import time

from contracts.events.record import TopicPartition


class CaughtUpTimes:
    """The last time, in ms since the epoch, at which everything in a partition had been seen.

    Every delete before that time is in the embeddings. A later delete may be compacted away,
    together with its tombstone, once `retention_s` seconds have passed.
    """

    def __init__(self, retention_s: float) -> None:
        self._retention_s = retention_s
        self._ms: dict[TopicPartition, int] = {}

    def set(self, partition: TopicPartition, caught_up_ms: int) -> None:
        self._ms[partition] = caught_up_ms

    def get(self, partition: TopicPartition) -> int | None:
        return self._ms.get(partition)

    def is_too_old(self, partition: TopicPartition) -> bool:
        """Return whether deletes may have been compacted away unseen, or no time is known."""
        caught_up_ms = self._ms.get(partition)
        return caught_up_ms is None or now_ms() - caught_up_ms > 1000 * self._retention_s


def now_ms() -> int:
    """Return the wall-clock time in ms since the epoch."""
    return int(time.time() * 1000)
