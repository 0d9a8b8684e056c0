"""Dead letters as JSON and as lines for a terminal."""

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from contracts.events.dead_letter import Letter
    from streams.registry.dead_letter_desk import LetterGroup


def wire_listed(one: "LetterGroup") -> dict[str, Any]:
    """Return a bad record with its letters, one of each space, as --json prints it."""
    return wire_of(one.letter) | {
        "outcome": one.outcome,
        "spaces": one.spaces,
        "letters": [
            {"letter": str(letter.id), "space": letter.space, "reason": letter.reason}
            for letter in one.letters
        ],
    }


def wire_of(letter: "Letter") -> dict[str, Any]:
    """Return a dead letter as --json prints it."""
    source = letter.source
    return {
        "letter": str(letter.id),
        "written": datetime.fromtimestamp(letter.written_ms / 1000, UTC).isoformat(),
        "id": None if letter.key is None else letter.key.decode("utf-8", "replace"),
        "reason": letter.reason,
        "message": letter.message,
        "stage": letter.stage,
        "space": letter.space,
        "attempts": letter.attempts,
        "source": None if source is None else ":".join(map(str, source)),
        "bytes": letter.truncated or len(letter.key or b"") + letter.value_bytes,
        "truncated": letter.truncated is not None,
    }


def line_of(one: "LetterGroup") -> str:
    """Return a bad record with its letters as a line for a terminal."""
    wire = wire_of(one.letter)
    spaces = f"  {', '.join(one.spaces)}" if one.spaces else ""
    outcome = f" [{one.outcome}]" if one.outcome else ""
    said = {one.letter.reason: ""} | {
        letter.reason: f"; {letter.space}: {letter.reason}: {letter.message}"
        for letter in one.letters[1:]
        if letter.reason != one.letter.reason
    }
    return (
        f"{wire['letter']}  {wire['written'][:19]}  {wire['id']!r}{spaces}  "
        f"{wire['reason']}{outcome}: {wire['message']}{''.join(said.values())}"
    )


def readable(value: bytes, *, whole: bool) -> str:
    """Show a value that is text (`whole`: of any characters), or its size and how it begins."""
    try:
        text = value.decode()
    except UnicodeDecodeError:
        text = ""
    if value and not (text if whole else text.isprintable()):
        return f"{len(value)} bytes, beginning with {value[:16].hex()}"
    return text
