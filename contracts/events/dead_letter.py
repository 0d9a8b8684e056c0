"""Dead letters: records that were refused, kept whole, each with the reason in headers.

Key, value and headers are those of the original, unchanged, so that a letter can be published again
once the cause is removed. These headers are appended. Kafka readers take the last header of a name,
so a letter that was retried and failed again shows its newest reason:

    dead_letter_reason     the code, such as `invalid_json`, which metrics count
    dead_letter_message    a text for people, with field, limit and value
    dead_letter_stage      the stage that refused the record: `encode`, `index`
    dead_letter_attempts   the number of attempts; 1 where no retry could help
    dead_letter_source     TOPIC:PARTITION:OFFSET of the original
    dead_letter_space      the space whose encoder or index refused it; older letters lack it
    dead_letter_truncated  the size of the original in bytes, where the topic cannot take all of it

Every space refuses a bad record by itself, in the transaction of its own encoder, so a rebuild
writes a second letter of the same source. Letters with the same source and the same bytes are
*copies*.

A compressed batch can hold a record that is larger than any topic's limit. The letter of such a
record has only the beginning of its key and value, and none of its headers. It can be published
again only from its source.

Kafka cannot delete a single record. What was done with a letter is therefore written as a *mark*
later in the same partition: a record with the letter's key, no value, and two headers. The last
mark of a letter counts.

    dead_letter_of       PARTITION:OFFSET of the letter
    dead_letter_outcome  `retried`, `superseded` (its item has a newer record) or `discarded`
"""

import hashlib
from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

from contracts.errors import RejectedRecord
from contracts.events.record import OutRecord, Record, RecordPosition, record_bytes
from contracts.space import SPACE_NAME

REASON = "dead_letter_reason"
MESSAGE = "dead_letter_message"
STAGE = "dead_letter_stage"
ATTEMPTS = "dead_letter_attempts"
SOURCE = "dead_letter_source"
SPACE = "dead_letter_space"
TRUNCATED = "dead_letter_truncated"
_ADDED = frozenset({REASON, MESSAGE, STAGE, ATTEMPTS, SOURCE, SPACE, TRUNCATED})

MARK_LETTER = "dead_letter_of"
OUTCOME = "dead_letter_outcome"

Outcome = Literal["retried", "superseded", "discarded"]
OUTCOMES: tuple[Outcome, ...] = get_args(Outcome)

# Bytes of key and of value in a truncated letter: enough for an id, and to recognise a format.
HEAD_BYTES_MAX = 1_024
# Bytes that Kafka adds to a record and its batch, and to each header; it needs fewer.
_RECORD_OVERHEAD_BYTES = 128
_HEADER_OVERHEAD_BYTES = 10


class LetterId(NamedTuple):
    """The position of a letter in the dead-letters topic; as text PARTITION:OFFSET."""

    partition: int
    offset: int

    def __str__(self) -> str:
        return f"{self.partition}:{self.offset}"

    @classmethod
    def parse(cls, text: str) -> "LetterId":
        """Read PARTITION:OFFSET. Raises ValueError."""
        partition, _, offset = text.partition(":")
        if not (partition.isdecimal() and offset.isdecimal()):
            raise ValueError(f"want PARTITION:OFFSET, got {text!r}")
        return cls(int(partition), int(offset))


@dataclass(frozen=True, slots=True)
class Letter:
    """A letter as it was read, without its value.

    `written_ms` is its append time in milliseconds since 1970. `source` is None if the letter names
    none that can be read, and `space` is None in letters of versions that did not write it.
    `value_bytes` and `digest` are the size and a digest of the value in the letter.
    """

    id: LetterId
    written_ms: int
    key: bytes | None
    value_bytes: int
    reason: str
    message: str
    stage: str
    attempts: int
    source: RecordPosition | None
    space: str | None
    digest: bytes
    truncated: int | None
    """The size of the original in bytes, where the letter has only its beginning."""


class LetterMark(NamedTuple):
    """A record of what was done with a letter."""

    letter: LetterId
    outcome: Outcome


def letter_bytes_max(record_bytes_max: int) -> int:
    """Return the size of the largest letter: the largest original, and as much for headers."""
    return 2 * record_bytes_max


def dead_letter_record(
    topic: str,
    record: Record,
    rejection: RejectedRecord,
    *,
    stage: str,
    space: str,
    attempts: int,
    bytes_max: int,
) -> OutRecord:
    """Return the letter of `record`, which was refused by `rejection`; cut above `bytes_max`."""
    source = f"{record.topic}:{record.partition}:{record.offset}"
    added = {
        REASON: rejection.code,
        MESSAGE: rejection.message,
        STAGE: stage,
        ATTEMPTS: str(attempts),
        SOURCE: source,
        SPACE: space,
    }
    # The message may quote parts of the record that are not UTF-8.
    headers = [(name, text.encode("utf-8", "backslashreplace")) for name, text in added.items()]
    letter = OutRecord(topic, record.key, record.value, [*record.headers, *headers])
    overhead = _RECORD_OVERHEAD_BYTES + _HEADER_OVERHEAD_BYTES * len(letter.headers)
    if record_bytes(letter) + overhead <= bytes_max:
        return letter
    headers.append((TRUNCATED, str(record_bytes(record)).encode()))
    return OutRecord(topic, _head(record.key), _head(record.value), headers)


def read_letter(record: Record) -> Letter | None:
    """Return the letter, or None for any other record: a mark, or one that another tool wrote."""
    reason = record.header(REASON)
    if reason is None:
        return None

    def text(name: str) -> str:
        return (record.header(name) or b"").decode("utf-8", "replace")

    attempts, truncated = text(ATTEMPTS), text(TRUNCATED)
    return Letter(
        LetterId(record.partition, record.offset),
        record.timestamp_ms,
        record.key,
        len(record.value or b""),
        text(REASON),
        text(MESSAGE),
        text(STAGE),
        int(attempts) if attempts.isdecimal() else 1,
        _read_source(text(SOURCE)),
        letter_space(record.header(SPACE)),
        hashlib.blake2b(record.value or b"", digest_size=8).digest(),
        int(truncated) if truncated.isdecimal() else None,
    )


def letter_space(header: bytes | None) -> str | None:
    """Return the space that a letter names, or None where that is not a possible name."""
    name = (header or b"").decode("utf-8", "replace")
    return name if SPACE_NAME.fullmatch(name) else None


def _read_source(text: str) -> RecordPosition | None:
    topic, *numbers = text.split(":")
    if len(numbers) != 2 or not all(number.isdecimal() for number in numbers):
        return None
    return RecordPosition(topic, int(numbers[0]), int(numbers[1]))


def read_mark(record: Record) -> LetterMark | None:
    """Return the mark, or None for any other record and for marks that only newer versions know.

    A letter is never a mark: its original may have had headers of these names.
    """
    if record.header(REASON) is not None:
        return None
    outcome = (record.header(OUTCOME) or b"").decode("utf-8", "replace")
    try:
        letter = LetterId.parse((record.header(MARK_LETTER) or b"").decode("utf-8", "replace"))
    except ValueError:
        return None
    return LetterMark(letter, outcome) if outcome in OUTCOMES else None


def mark_record(topic: str, letter: Letter, outcome: Outcome) -> OutRecord:
    """Return the mark of `letter`."""
    headers = [(MARK_LETTER, str(letter.id).encode()), (OUTCOME, outcome.encode())]
    return OutRecord(topic, letter.key, None, headers, letter.id.partition)


def original_headers(record: Record) -> list[tuple[str, bytes]]:
    """Return the headers that the original of a letter had."""
    return [(name, value) for name, value in record.headers if name not in _ADDED]


def _head(data: bytes | None) -> bytes | None:
    return None if data is None else data[:HEAD_BYTES_MAX]
