"""Dead letters: a record that cannot be served, kept whole, with the reason beside it.

Key, value and headers are the original's, untouched, so that a letter can be published again once
the cause is gone. Added behind them (Kafka readers take the last header of a name, so a letter
that was retried and failed again shows its newest reason):

    dead_letter_reason    the code, such as `invalid_json`: what is counted and alerted on
    dead_letter_message   for people: field, limit and value
    dead_letter_stage     who gave up: `encode`, `index`
    dead_letter_attempts  how often it was tried, 1 for what no retry could change
    dead_letter_source    TOPIC:PARTITION:OFFSET of the original
"""

from contracts.errors import RejectedRecord
from contracts.records import OutRecord, Record

REASON = "dead_letter_reason"
MESSAGE = "dead_letter_message"
STAGE = "dead_letter_stage"
ATTEMPTS = "dead_letter_attempts"
SOURCE = "dead_letter_source"

# A message may quote the record; the letter must stay below the topic's limit.
MESSAGE_CHARS_MAX = 1_000


def dead_letter_record(
    topic: str, record: Record, rejection: RejectedRecord, *, stage: str, attempts: int
) -> OutRecord:
    """The letter for `record`, refused as `rejection` says."""
    source = f"{record.topic}:{record.partition}:{record.offset}"
    added = {
        REASON: rejection.code,
        MESSAGE: rejection.message[:MESSAGE_CHARS_MAX],
        STAGE: stage,
        ATTEMPTS: str(attempts),
        SOURCE: source,
    }
    # What was not UTF-8 in the record may be quoted in the message.
    headers = [(name, text.encode("utf-8", "backslashreplace")) for name, text in added.items()]
    return OutRecord(topic, record.key, record.value, [*record.headers, *headers])
