"""The retention of tombstones: how long a reader may stay away without missing deletes."""

from collections.abc import Mapping

from contracts.events.record import TopicPartition

# With less, a topic says that it does not keep tombstones at all, and no reader could be sure.
RETENTION_MIN_S = 60.0


def missed_deletes(
    caught_up_at: Mapping[TopicPartition, float], now: float, retention_s: float
) -> str | None:
    """Return why tombstones may be gone that a state has not seen (invariant 7), or None.

    `caught_up_at` and `now` are seconds since the epoch; `retention_s` is delete.retention.ms.
    """
    if not caught_up_at:
        return None
    partition, oldest = min(caught_up_at.items(), key=lambda item: item[1])
    if now - oldest <= retention_s:
        return None
    return (
        f"{partition.topic}/{partition.partition} was caught up last {now - oldest:.0f} s ago, but "
        f"tombstones are kept for {retention_s:.0f} s (delete.retention.ms)"
    )
