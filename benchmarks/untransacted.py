"""`tidelens` with an encoder that writes without transactions: the difference is what they cost.

    python -m benchmarks.untransacted encode ...

Same clients, same records, same order; but no transactional id, no offsets, and nothing that takes
back what half a batch wrote. For benchmarks.encode_latency alone.
"""

from collections.abc import Sequence

from aiokafka import AIOKafkaProducer

from contracts.events.dead_letter import letter_bytes_max
from contracts.events.record import OutRecord, TopicPartition
from contracts.ports.ownership import RecordClaim
from streams.ownership import kafka_ownership
from tidelens.__main__ import main


class _Session(kafka_ownership._OwnershipSession):
    def _producer(self, partition: TopicPartition) -> AIOKafkaProducer:
        return AIOKafkaProducer(
            **self._owner._connection.client_options(),
            enable_idempotence=True,
            max_request_size=letter_bytes_max(self._owner._record_bytes_max),
            max_batch_size=1024 * 1024,
            linger_ms=0,
        )

    async def _transact(self, claimed: RecordClaim, outputs: Sequence[OutRecord]) -> None:
        partition = claimed.lease.partition
        sent = [
            await self._producers[partition].send(
                record.topic,
                record.value,
                record.key,
                partition=record.partition,
                headers=list(record.headers),
            )
            for record in outputs
        ]
        for future in sent:
            await future
        self._committed_to[partition] = claimed.next_position
        self._look_drained()


if __name__ == "__main__":
    kafka_ownership._OwnershipSession = _Session  # type: ignore[misc]
    main()
