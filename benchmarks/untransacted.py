"""`tidelens` with an encoder that writes without transactions: the difference is what they cost.

    python -m benchmarks.untransacted encode ...

Same clients, same records, same order; but no transactional id, no offsets, and nothing that takes
back what half a batch wrote. For benchmarks.encode_latency alone.
"""

from collections.abc import Sequence

from aiokafka import AIOKafkaProducer
from aiokafka.structs import OffsetAndMetadata

from contracts.events.dead_letter import letter_bytes_max
from contracts.events.record import OutRecord
from streams.ownership import session
from streams.ownership.transaction import TransactionWriter
from streams.topics.identity import TopicIdentityCheck
from tidelens.__main__ import main


class _PlainWriter(TransactionWriter):
    def _new_producer(self) -> AIOKafkaProducer:
        return AIOKafkaProducer(
            **self._options.connection.client_options(),
            enable_idempotence=True,
            max_request_size=letter_bytes_max(self._options.record_bytes_max),
            max_batch_size=1024 * 1024,
            linger_ms=0,
        )

    async def write(
        self,
        outputs: Sequence[OutRecord],
        offset: OffsetAndMetadata,
        identity: TopicIdentityCheck,
    ) -> None:
        sent = [
            await self.producer.send(
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


if __name__ == "__main__":
    session.TransactionWriter = _PlainWriter  # type: ignore[attr-defined]
    main()
