"""The reporting of embedding records that an index cannot read: a log line and a dead letter."""

import structlog

from contracts.errors import RejectedRecord, TidelensError
from contracts.events.dead_letter import dead_letter_record
from contracts.events.record import Positions, Record, TopicPartition
from contracts.metrics import Metrics
from contracts.ports.event_log import EventLog
from contracts.topics import Names

log = structlog.get_logger(__name__)


class Rejections:
    """The reporter of unreadable records: it logs each, and writes and counts its dead letter.

    Records before `letters_from` had their letters in an earlier run. A replay of the topic logs
    them again, and neither writes nor counts them.
    """

    def __init__(
        self, event_log: EventLog, names: Names, metrics: Metrics, *, letter_bytes_max: int
    ) -> None:
        self._log = event_log
        self._names = names
        self._metrics = metrics
        self._letter_bytes_max = letter_bytes_max
        self.letters_from: Positions = {}
        """The positions that this node's group had committed when the maintainer last started,
        which sets them at each start; a partition that is missing counts from 0."""

    async def add(self, record: Record, error: TidelensError) -> None:
        """Report a record that the index has refused with `error`.

        Raises what EventLog.publish raises, and then counts nothing.
        """
        code = error.code if isinstance(error, RejectedRecord) else "wrong_space"
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
        self._metrics.dead_letters.labels("index", code).inc()
