"""Dead letters keep the original record whole, and name the reason of its refusal."""

from typing import Any

import pytest

from contracts.errors import MESSAGE_CHARS_MAX, RejectedRecord
from contracts.events.dead_letter import HEAD_BYTES_MAX, dead_letter_record
from contracts.events.record import Record

BYTES_MAX = 10_000


def letter(rejection: RejectedRecord, record: Record | None = None) -> Record:
    """Return the dead letter of a rejection, as a reader of its topic sees it."""
    original = record or Record("t.images", 3, 17, 0, b"k\xff", b"\x00\xff", [("a", b"\xfe")])
    out = dead_letter_record(
        "t.dead-letters",
        original,
        rejection,
        stage="encode",
        space="a-v1",
        attempts=2,
        bytes_max=BYTES_MAX,
    )
    return Record(out.topic, 0, 0, 0, out.key, out.value, out.headers)


def test_the_original_is_untouched() -> None:
    seen = letter(RejectedRecord("invalid_json", "value: not JSON"))
    assert (seen.key, seen.value, seen.headers[0]) == (b"k\xff", b"\x00\xff", ("a", b"\xfe"))


def test_headers_tell_reason_stage_attempts_and_source() -> None:
    seen = letter(RejectedRecord("invalid_json", "value: not JSON"))
    assert dict(seen.headers[1:]) == {
        "dead_letter_reason": b"invalid_json",
        "dead_letter_message": b"value: not JSON",
        "dead_letter_stage": b"encode",
        "dead_letter_attempts": b"2",
        "dead_letter_source": b"t.images:3:17",
        "dead_letter_space": b"a-v1",
    }


def test_a_letter_that_fails_again_shows_its_newest_reason() -> None:
    first = letter(RejectedRecord("fetch_failed", "timeout"))
    again = letter(RejectedRecord("invalid_image", "truncated"), first)
    assert again.header("dead_letter_reason") == b"invalid_image"


def test_the_message_is_bounded_and_always_encodable() -> None:
    seen = letter(RejectedRecord("invalid_content", "\udcff" + "x" * 5_000))
    message = seen.header("dead_letter_message") or b""
    assert message.startswith(b"\\udcff")
    assert len(message) < MESSAGE_CHARS_MAX + 10


@pytest.mark.parametrize(
    ("more", "size"),
    [
        ({"value": b"v" * BYTES_MAX}, BYTES_MAX + 1),
        ({"key": b"k" * BYTES_MAX}, BYTES_MAX + 1),
        ({"headers": [("h", b"x" * BYTES_MAX)]}, BYTES_MAX + 3),
        # These headers are empty, but each takes some bytes of framing.
        ({"headers": [("h", b"")] * 4_000}, 4_002),
    ],
)
def test_what_the_topic_does_not_take_is_truncated(more: dict[str, Any], size: int) -> None:
    parts = {"key": b"k", "value": b"v", "headers": [], **more}
    seen = letter(RejectedRecord("invalid_json", "not JSON"), Record("t.images", 3, 17, 0, **parts))
    assert (seen.key, seen.value) == (
        parts["key"][:HEAD_BYTES_MAX],
        parts["value"][:HEAD_BYTES_MAX],
    )
    assert seen.header("dead_letter_truncated") == str(size).encode()
    assert seen.header("dead_letter_source") == b"t.images:3:17"
    assert seen.header("h") is None
