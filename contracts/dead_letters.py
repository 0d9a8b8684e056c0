"""Dead letters: a record that cannot be served, kept whole, with the reason beside it.

Key, value and headers are the original's, untouched, so that a letter can be published again once
the cause is gone. Added behind them (Kafka readers take the last header of a name, so a letter
that was retried and failed again shows its newest reason):

    dead_letter_reason     the code, such as `invalid_json`: what is counted and alerted on
    dead_letter_message    for people: field, limit and value
    dead_letter_stage      who gave up: `encode`, `index`
    dead_letter_attempts   how often it was tried, 1 for what no retry could change
    dead_letter_source     TOPIC:PARTITION:OFFSET of the original
    dead_letter_truncated  bytes of the original, where they are more than the topic takes

A compressed batch can hold a record larger than any topic's limit. Of such a one the letter has the
beginning of key and value and no headers: there is nothing to publish again, save from its source.
"""

from contracts.errors import RejectedRecord
from contracts.records import OutRecord, Record

REASON = "dead_letter_reason"
MESSAGE = "dead_letter_message"
STAGE = "dead_letter_stage"
ATTEMPTS = "dead_letter_attempts"
SOURCE = "dead_letter_source"
TRUNCATED = "dead_letter_truncated"

# What a truncated letter keeps of key and value: enough for an id, and to know a format.
HEAD_BYTES_MAX = 1_024
# Lengths and framing of a record and of its batch, and of each header: more than Kafka needs.
_RECORD_OVERHEAD_BYTES = 128
_HEADER_OVERHEAD_BYTES = 10


def letter_bytes_max(record_bytes_max: int) -> int:
    """The largest letter: an original of the largest size, and as much again for headers."""
    return 2 * record_bytes_max


def dead_letter_record(
    topic: str,
    record: Record,
    rejection: RejectedRecord,
    *,
    stage: str,
    attempts: int,
    bytes_max: int,
) -> OutRecord:
    """The letter for `record`, refused as `rejection` says; truncated above `bytes_max`."""
    source = f"{record.topic}:{record.partition}:{record.offset}"
    added = {
        REASON: rejection.code,
        MESSAGE: rejection.message,
        STAGE: stage,
        ATTEMPTS: str(attempts),
        SOURCE: source,
    }
    # What was not UTF-8 in the record may be quoted in the message.
    headers = [(name, text.encode("utf-8", "backslashreplace")) for name, text in added.items()]
    letter = OutRecord(topic, record.key, record.value, [*record.headers, *headers])
    overhead = _RECORD_OVERHEAD_BYTES + _HEADER_OVERHEAD_BYTES * len(letter.headers)
    if _bytes_of(letter) + overhead <= bytes_max:
        return letter
    headers.append((TRUNCATED, str(_bytes_of(record)).encode()))
    return OutRecord(topic, _head(record.key), _head(record.value), headers)


def _head(data: bytes | None) -> bytes | None:
    return None if data is None else data[:HEAD_BYTES_MAX]


def _bytes_of(record: Record | OutRecord) -> int:
    headers = sum(len(name.encode()) + len(value or b"") for name, value in record.headers)
    return len(record.key or b"") + len(record.value or b"") + headers
