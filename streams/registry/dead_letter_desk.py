"""Dead letters on the operator's desk: the letters, what was done with each, and another try.

A retry publishes the original again, where its key belongs. It must not bring back what has been
replaced since, so it asks the log first whether the record is still the newest of its item. Kafka
has no conditional write: a version of the item that is published between the question and the
answer is overwritten. That takes milliseconds, and the documentation of `retry` says so.
"""

from collections import defaultdict
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Literal

from contracts.errors import UsageError
from contracts.events.dead_letter import (
    Letter,
    LetterId,
    Outcome,
    mark_record,
    original_headers,
    read_letter,
    read_mark,
)
from contracts.events.record import OutRecord, Record, RecordPosition, TopicPartition
from contracts.partitioner import Partitioner
from contracts.ports.event_log import EventLog
from contracts.topics import TARGETS, Names
from streams.kafka.partition_scan import read_existing

# What a retry comes to beside the outcomes that are marked: the original cannot be published.
Refusal = Literal["truncated", "not_content", "gone"]


@dataclass(frozen=True, slots=True)
class LetterGroup:
    """The letters of one record, and what was done with the record (None: nothing yet).

    `letters` holds the letter of each space that refused the record, the oldest first. What was
    done to one of them was done to the record, so it counts for all, later copies included.
    """

    letters: tuple[Letter, ...]
    outcome: Outcome | None

    @property
    def letter(self) -> Letter:
        """Return the oldest letter, whose id names the record: a rebuild does not change it."""
        return self.letters[0]

    @property
    def spaces(self) -> list[str]:
        return list(dict.fromkeys(one.space for one in self.letters if one.space is not None))


@dataclass(frozen=True, slots=True)
class RetryResult:
    """The result of one retry: an outcome that is marked now, or why nothing was done."""

    listed: LetterGroup
    outcome: Outcome | None
    refusal: Refusal | None = None


class DeadLetterDesk:
    """The dead letters of one topic prefix."""

    def __init__(self, log: EventLog, names: Names, partition_of: Partitioner) -> None:
        self._log = log
        self._topic = names.dead_letters
        self._content = {names.content(target) for target in TARGETS}
        self._partition_of = partition_of

    async def all(self) -> list[LetterGroup]:
        """List all records in the order of the log, by partition, without their values."""
        counts = await self._log.partition_counts([self._topic])
        partitions = [TopicPartition(self._topic, n) for n in range(counts[self._topic])]
        letters: dict[LetterId, Letter] = {}
        outcomes: dict[LetterId, Outcome] = {}
        async for record in read_existing(self._log, dict.fromkeys(partitions)):
            if (letter := read_letter(record)) is not None:
                letters[letter.id] = letter
            elif (mark := read_mark(record)) is not None:
                # Moved to the end, so that the order of `outcomes` is that of the last marks.
                outcomes.pop(mark.letter, None)
                outcomes[mark.letter] = mark.outcome
        return _folded(letters, outcomes)

    async def original(self, letter_id: LetterId) -> Record:
        """Return the letter itself: key, value and headers. Raises UsageError."""
        record = await self._log.read(RecordPosition(self._topic, *letter_id))
        if record is None or read_letter(record) is None:
            raise UsageError(f"letter: there is none at {letter_id} of {self._topic}")
        return record

    async def discard(self, chosen: Iterable[LetterGroup]) -> None:
        """Mark the records as discarded, so that nobody looks at them again."""
        await self._mark(chosen, "discarded")

    async def retry(self, chosen: Collection[LetterGroup]) -> list[RetryResult]:
        """Publish each record again, once for all its letters, if it is still its item's newest.

        Of several records of one item only the last can be. A crash may leave one published and not
        marked: it is then published once more, which changes nothing.
        """
        newest = await self._newest([one.letter for one in chosen])
        done = []
        for one in chosen:
            source = one.letter.source
            if source is None or source.topic not in self._content:
                done.append(RetryResult(one, None, "not_content"))
            elif one.letter.id not in newest:
                await self._mark([one], "superseded")
                done.append(RetryResult(one, "superseded"))
            else:
                done.append(await self._publish_again(one, source.topic))
        return done

    async def _publish_again(self, one: LetterGroup, topic: str) -> RetryResult:
        record = await self._whole(one)
        if record is None:
            return RetryResult(one, None, "gone" if one.letter.truncated is None else "truncated")
        again = OutRecord(topic, record.key, record.value, original_headers(record))
        await self._log.publish([again])
        await self._mark([one], "retried")
        return RetryResult(one, "retried")

    async def _whole(self, one: LetterGroup) -> Record | None:
        """Read the original, from its source where the letters hold only the beginning of it."""
        letter = one.letter
        if letter.truncated is not None:
            assert letter.source is not None
            record = await self._log.read(letter.source)
            return record if record is not None and _is_original(record, letter) else None
        for copy in one.letters:  # the older ones leave the log first
            record = await self._log.read(RecordPosition(self._topic, *copy.id))
            if record is not None:
                return record
        return None

    async def _mark(self, chosen: Iterable[LetterGroup], outcome: Outcome) -> None:
        letters = [letter for one in chosen for letter in one.letters]
        await self._log.publish([mark_record(self._topic, letter, outcome) for letter in letters])

    async def _newest(self, letters: Iterable[Letter]) -> set[LetterId]:
        """Return those whose record is still the newest of its item, in one pass over later
        records.
        """
        counts = await self._log.partition_counts(self._content)
        last: dict[tuple[str, bytes | None], Letter] = {}
        for letter in sorted(letters, key=lambda letter: (letter.written_ms, letter.id)):
            if letter.source is not None and letter.source.topic in self._content:
                last[letter.source.topic, letter.key] = letter
        asked: dict[TopicPartition, dict[bytes | None, _RequestedLetter]] = defaultdict(dict)
        for (topic, key), letter in last.items():
            home = TopicPartition(topic, self._partition_of(key or b"", counts[topic]))
            asked[home][key] = await self._asked(letter, home)
        newest = {one.letter for of in asked.values() for one in of.values()}
        for home, of in asked.items():
            offsets = [one.offset for one in of.values()]
            start = None if None in offsets else min(o for o in offsets if o is not None) + 1
            async for record in read_existing(self._log, {home: start}):
                one = of.get(record.key)
                if one is not None and one.is_before(record):
                    newest.discard(one.letter)
        return newest

    async def _asked(self, letter: Letter, home: TopicPartition) -> "_RequestedLetter":
        assert letter.source is not None
        record = await self._log.read(letter.source)
        if record is None or not _is_original(record, letter):
            # Compaction removed it for a newer one, or the topic was created again.
            return _RequestedLetter(letter.id, None, letter.written_ms)
        is_home = home.partition == record.partition
        return _RequestedLetter(letter.id, record.offset if is_home else None, record.timestamp_ms)


def _folded(
    letters: dict[LetterId, Letter], outcomes: dict[LetterId, Outcome]
) -> list[LetterGroup]:
    """Join the letters of each record, ordered by its oldest one. `outcomes` are in log order.

    A topic that was deleted and made again has other records at the same offsets, so letters belong
    together only where the digests of their records agree too.
    """
    copies: dict[object, list[Letter]] = defaultdict(list)
    for _, letter in sorted(letters.items()):
        source = letter.source
        record = letter.id if source is None else (source, letter.key, letter.digest)
        copies[record].append(letter)
    order = {letter_id: at for at, letter_id in enumerate(outcomes)}
    found = []
    for each in copies.values():
        last = max((order.get(letter.id, -1), letter.id) for letter in each)[1]
        found.append(LetterGroup(tuple(each), outcomes.get(last)))
    return found


@dataclass(frozen=True, slots=True)
class _RequestedLetter:
    """A letter, and the position of its record among those of its item, if it has one."""

    letter: LetterId
    offset: int | None
    appended_ms: int

    def is_before(self, record: Record) -> bool:
        if self.offset is not None:
            return record.offset > self.offset
        return record.timestamp_ms >= self.appended_ms


def _is_original(record: Record, letter: Letter) -> bool:
    key = record.key or b""
    return key == letter.key or (letter.truncated is not None and key.startswith(letter.key or b""))
