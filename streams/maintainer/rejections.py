"""The embedding records that an index cannot read."""

import structlog

from contracts.errors import RejectedRecord, TidelensError
from contracts.events.dead_letter import dead_letter_record
from contracts.events.record import Positions, Record, TopicPartition
from contracts.metrics import Metrics
from contracts.ports.event_log import EventLog
from contracts.topics import Names

log = structlog.get_logger(__name__)


class Rejections:
    """The unreadable records of one run: counted, logged, and each new one written as a dead
    letter.

    Records before `letters_from` had their letters in an earlier run: a replay of the topic does
    not write them again.
    """

    def __init__(
        self, event_log: EventLog, names: Names, metrics: Metrics, *, letter_bytes_max: int
    ) -> None:
        self._log = event_log
        self._names = names
        self._metrics = metrics
        self._letter_bytes_max = letter_bytes_max
        self.letters_from: Positions = {}

    async def add(self, record: Record, error: TidelensError) -> None:
        """Report a record that the index has refused with `error`."""
        code = error.code if isinstance(error, RejectedRecord) else "wrong_space"
        self._metrics.dead_letters.labels("index", code).inc()
        log.warning(
            "unreadable embedding",
            item=(record.key or b"").decode("utf-8", "replace"),
            topic=record.topic,
            partition=record.partition,
            offset=record.offset,
            reason=code,
            detail=str(error),
        )
        partition = TopicPartition(record.topic, record.partition)
        if record.offset < self.letters_from.get(partition, 0):
            return
        rejection = error if isinstance(error, RejectedRecord) else RejectedRecord(code, str(error))
        letter = dead_letter_record(
            self._names.dead_letters,
            record,
            rejection,
            stage="index",
            space=self._names.space,
            attempts=1,
            bytes_max=self._letter_bytes_max,
        )
        await self._log.publish([letter])
