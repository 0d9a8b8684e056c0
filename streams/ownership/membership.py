"""An encoder's membership in its consumer group, which assigns the content partitions.

The consumer of a membership is never read from: it only learns which partitions are assigned.
"""

from collections.abc import Awaitable, Callable, Sequence
from typing import Self

from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener
from aiokafka import TopicPartition as KafkaPartition

from contracts.events.record import TopicPartition
from contracts.topics import TARGETS
from streams.kafka.client_lifecycle import close_consumer_or_producer, start_client
from streams.ownership.options import OwnershipOptions

# The consumer is never polled; Kafka's clients would leave the group after this time.
_POLL_INTERVAL_MS = 2**31 - 1


class Membership(ConsumerRebalanceListener):  # type: ignore[misc]
    """One stay in the group, from joining it to leaving it.

    The group waits for the callbacks of a rebalance, so `drain`, which a revocation awaits, must be
    bounded. `rebalanced` is called with the membership whenever its assignment has changed.
    """

    def __init__(
        self,
        options: OwnershipOptions,
        drain: Callable[[], Awaitable[None]],
        rebalanced: Callable[[Self], None],
    ) -> None:
        self._drain = drain
        self._rebalanced = rebalanced
        self.assignment: frozenset[TopicPartition] = frozenset()
        self.has_share = False
        """True once the group has assigned a share to this member, which may be no partition."""
        self.consumer = AIOKafkaConsumer(
            **options.connection.client_options(),
            group_id=options.group,
            enable_auto_commit=False,
            auto_offset_reset="none",
            isolation_level="read_committed",
            max_poll_interval_ms=_POLL_INTERVAL_MS,
            session_timeout_ms=options.session_timeout_ms,
            heartbeat_interval_ms=max(100, options.session_timeout_ms // 5),
            rebalance_timeout_ms=options.session_timeout_ms,
        )
        topics = [options.names.content(target) for target in TARGETS]
        self.consumer.subscribe(topics, listener=self)

    async def join(self) -> None:
        """Start the consumer, which joins the group."""
        await start_client(self.consumer)

    async def leave(self) -> None:
        """Leave the group and close the consumer."""
        await close_consumer_or_producer(self.consumer)

    async def on_partitions_revoked(self, revoked: Sequence[KafkaPartition]) -> None:
        await self._drain()
        self._assign(frozenset())

    async def on_partitions_assigned(self, assigned: Sequence[KafkaPartition]) -> None:
        # Pause at once: this consumer must not fetch records, which would never be read.
        self.consumer.pause(*assigned)
        self.has_share = True
        self._assign(frozenset(TopicPartition(*partition) for partition in assigned))

    def _assign(self, partitions: frozenset[TopicPartition]) -> None:
        self.assignment = partitions
        self._rebalanced(self)
