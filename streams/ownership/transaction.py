"""The transactions of one content partition: outputs and source offset, or neither."""

import asyncio
import contextlib
from collections.abc import Iterator, Sequence

from aiokafka import AIOKafkaProducer
from aiokafka import TopicPartition as KafkaPartition
from aiokafka.errors import MessageSizeTooLargeError, RecordListTooLargeError
from aiokafka.structs import OffsetAndMetadata

from contracts import fault_points
from contracts.errors import RecordTooLarge
from contracts.events.dead_letter import letter_bytes_max
from contracts.events.record import OutRecord, TopicPartition
from streams.kafka.client_lifecycle import close_consumer_or_producer, retrieve_exception_of
from streams.ownership.options import OwnershipOptions
from streams.topics.identity import ANSWER_S, TopicIdentityCheck


class TransactionWriter:
    """A producer with the transactional id of one content partition.

    Starting the producer initialises the id, which fences the former owner of the partition.
    """

    def __init__(self, options: OwnershipOptions, partition: TopicPartition) -> None:
        self._options = options
        self._partition = partition
        self.producer = self._new_producer()

    def _new_producer(self) -> AIOKafkaProducer:
        options, partition = self._options, self._partition
        return AIOKafkaProducer(
            **options.connection.client_options(),
            transactional_id=options.names.transactional_id(
                options.target_of(partition), partition.partition
            ),
            transaction_timeout_ms=options.transaction_timeout_ms,
            max_request_size=letter_bytes_max(options.record_bytes_max),
            max_batch_size=1024 * 1024,
            linger_ms=0,
        )

    async def write(
        self,
        outputs: Sequence[OutRecord],
        offset: OffsetAndMetadata,
        identity: TopicIdentityCheck,
    ) -> None:
        """Append `outputs` and commit `offset` to the group in one transaction.

        Raises RecordTooLarge for an output that its topic does not accept, LogChanged if a topic
        was created again, and aiokafka's errors; the transaction is then not committed, or its fate
        is unknown.
        """
        # Ask after the records were fetched, and while the slower steps run.
        checking = identity.check_now()
        # 1. Open the transaction and append the outputs in source order.
        await self.producer.begin_transaction()
        sent = []
        for record in outputs:
            with _translate_size_errors(record):
                future = await self.producer.send(
                    record.topic,
                    record.value,
                    record.key,
                    partition=record.partition,
                    headers=list(record.headers),
                )
            # A failed send is reported below, or by the step that failed before it.
            retrieve_exception_of(future)
            sent.append(future)
        fault_points.reach("encode.sent")
        # 2. The source offset joins the same transaction.
        await self.producer.send_offsets_to_transaction(
            {KafkaPartition(*self._partition): offset}, self._options.group
        )
        fault_points.reach("encode.offsets_sent")
        # 3. Every output is delivered: aiokafka would commit without what the broker refused.
        for record, future in zip(outputs, sent, strict=True):
            with _translate_size_errors(record):
                await future
        # 4. Check that the topics are still those that the records came from and go to, as far as
        # the broker can say now. A commit that is wrong all the same names the topics that it
        # belongs to.
        await asyncio.wait([checking], timeout=ANSWER_S)
        identity.require()
        # 5. Both become visible, or neither.
        await self.producer.commit_transaction()
        fault_points.reach("encode.committed")

    async def close(self) -> None:
        await close_consumer_or_producer(self.producer)


@contextlib.contextmanager
def _translate_size_errors(record: OutRecord) -> Iterator[None]:
    try:
        yield
    except (MessageSizeTooLargeError, RecordListTooLargeError) as error:
        size = len(record.value or b"")
        raise RecordTooLarge(
            f"topic {record.topic} takes no record with a value of {size} bytes, or no batch with "
            "it: raise its max.message.bytes; `tidelens topics describe` shows what is wanted"
        ) from error
