"""`tidelens dead-letters`: what was refused and why, another try, or none."""

import asyncio
import sys
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tidelens.options import NamedPath, brokers_option, json_option, topic_prefix_option
from tidelens.terminal import say, say_json

if TYPE_CHECKING:
    from contracts.dead_letters import Letter, LetterId
    from contracts.records import Record
    from streams.dead_letters import DeadLetters, Listed, Retried

_REFUSALS = {
    "truncated": "the letter has only its beginning, and the original is no longer in the log: "
    "publish it again from where it came",
    "gone": "the letter is no longer in the log",
    "not_content": "not from a content topic: publish its item again instead",
}


@click.group("dead-letters")
def dead_letters() -> None:
    """Records that could not be served: list, show, retry, discard.

    A LETTER is PARTITION:OFFSET in the dead-letters topic, as `list` shows it.
    """


def _connected(command: Callable[..., None]) -> Callable[..., None]:
    for option in (json_option, topic_prefix_option, brokers_option):
        command = option(command)
    return command


def _choosing(command: Callable[..., None]) -> Callable[..., None]:
    """Which letters, by their ids or by what they have in common."""
    for option in (
        click.option("--stage", metavar="STAGE", help="Only of this stage: encode or index."),
        click.option("--reason", metavar="CODE", help="Only with this reason."),
    ):
        command = option(command)
    return command


def _asking(command: Callable[..., None]) -> Callable[..., None]:
    """For which letters to do something: what `_asked` takes."""
    every = click.option("--all", "every", is_flag=True, help="All to which nothing was done yet.")
    return click.argument("letters", nargs=-1)(_connected(_choosing(every(command))))


@dead_letters.command("list")
@_connected
@_choosing
@click.option("--handled", is_flag=True, help="Also those retried, superseded or discarded.")
def list_(
    brokers: str | None,
    topic_prefix: str | None,
    as_json: bool,
    reason: str | None,
    stage: str | None,
    handled: bool,
) -> None:
    """Show the letters to which nothing was done yet, in the order of the log.

    Each space refuses a bad record for itself, so that a rebuild writes another letter of it. Such
    copies are one line, under the oldest one's LETTER, with the names of their spaces; --json names
    them all.
    """

    async def run() -> "list[Listed]":
        async with _opened(brokers, topic_prefix) as letters:
            return await letters.all()

    found = [
        one for one in _chosen(asyncio.run(run()), reason, stage) if handled or one.outcome is None
    ]
    if as_json:
        say_json([_wire_listed(one) for one in found])
        return
    for one in found:
        say(_line(one))
    counts = Counter(one.letter.reason for one in found)
    told = ", ".join(f"{count} {name}" for name, count in counts.most_common())
    noun = "letter" if len(found) == 1 else "letters"
    say(f"{len(found)} {noun}" + (f": {told}" if told else ""), err=True)


@dead_letters.command()
@click.argument("letter")
@_connected
@click.option("--save", type=NamedPath(), help="Write the original value's bytes there.")
def show(
    letter: str, brokers: str | None, topic_prefix: str | None, as_json: bool, save: Path | None
) -> None:
    """Show one LETTER whole: why it was refused, and the original."""
    from contracts.dead_letters import original_headers, read_letter

    [letter_id] = _ids([letter])

    async def run() -> "Record":
        async with _opened(brokers, topic_prefix) as letters:
            return await letters.original(letter_id)

    record = asyncio.run(run())
    read = read_letter(record)
    assert read is not None
    value = record.value or b""
    if save is not None:
        save.write_bytes(value)
    answer = _wire(read) | {
        "headers": {name: raw.decode("utf-8", "replace") for name, raw in original_headers(record)},
        "value": _readable(value, whole=as_json),
    }
    if as_json:
        say_json(answer)
        return
    headers = answer.pop("headers")
    for name, shown in answer.items():
        say(f"{name:>10}  {shown}")
    for name, shown in headers.items():
        say(f"{'header':>10}  {name}: {shown}")


@dead_letters.command()
@_asking
def retry(as_json: bool, **asked: Any) -> None:
    """Publish the originals of LETTERS again, each to the partition where its key belongs.

    Only while a letter's record is still the newest of its item: else it is marked as superseded.
    A record is published once, whichever of its copies is named, and all of them are marked.
    Who publishes the same item in the milliseconds between that question and the writing is
    overwritten. What fails again becomes another letter.
    """

    async def run() -> "list[Retried]":
        async with _asked(**asked) as (opened, letters):
            return await opened.retry(letters)

    done = asyncio.run(run())
    counts = Counter(one.outcome or one.refusal for one in done)
    if as_json:
        wire = [
            {
                "letter": str(one.listed.letter.id),
                "letters": [str(letter.id) for letter in one.listed.letters],
                "outcome": one.outcome,
                "refusal": one.refusal,
            }
            for one in done
        ]
        say_json(wire)
    else:
        told = ", ".join(f"{counts.pop(name, 0)} {name}" for name in ("retried", "superseded"))
        say(told)
        for one in done:
            if one.refusal is not None:
                say(f"not retried: {one.listed.letter.id}: {_REFUSALS[one.refusal]}", err=True)
    if any(one.refusal for one in done):
        sys.exit(1)


@dead_letters.command()
@_asking
def discard(as_json: bool, **asked: Any) -> None:
    """Mark LETTERS and their copies as discarded, so that they are not listed any more.

    They stay in the log.
    """

    async def run() -> int:
        async with _asked(**asked) as (opened, letters):
            await opened.discard(letters)
            return len(letters)

    count = asyncio.run(run())
    if as_json:
        say_json({"discarded": count})
    else:
        say(f"discarded {count}")


@asynccontextmanager
async def _opened(brokers: str | None, topic_prefix: str | None) -> "AsyncIterator[DeadLetters]":
    from contracts.dead_letters import letter_bytes_max
    from contracts.partitioning import partitioner
    from streams.dead_letters import DeadLetters
    from streams.log import KafkaLog
    from tidelens.acting import acting

    given: dict[str, Any] = {"brokers": brokers, "topic_prefix": topic_prefix}
    acts = await asyncio.to_thread(acting, "dead-letters", **given)
    settings, connection = acts.settings, acts.connection()
    partition_of = partitioner(settings.partitioner)
    async with (
        connection.errors_translated(),
        KafkaLog.open(
            connection,
            partition_of=partition_of,
            record_bytes_max=letter_bytes_max(settings.record_bytes_max),
            prefix=settings.topic_prefix,
        ) as log,
    ):
        yield DeadLetters(log, acts.names(), partition_of)
    acts.tell()


def _ids(letters: Sequence[str]) -> "list[LetterId]":
    from contracts.dead_letters import LetterId
    from contracts.errors import UsageError

    try:
        return [LetterId.parse(letter) for letter in letters]
    except ValueError as error:
        raise UsageError(f"LETTER: {error}") from None


@asynccontextmanager
async def _asked(
    brokers: str | None,
    topic_prefix: str | None,
    letters: Sequence[str],
    reason: str | None,
    stage: str | None,
    every: bool,
) -> "AsyncIterator[tuple[DeadLetters, list[Listed]]]":
    """Those named, whatever was done to them; or all that are open and fit. Raises UsageError."""
    from contracts.errors import UsageError

    async with _opened(brokers, topic_prefix) as opened:
        wanted = _ids(letters)
        if bool(wanted) == every:
            raise UsageError("want LETTERs or --all, and not both")
        listed = await opened.all()
        known = {letter.id: one for one in listed for letter in one.letters}
        for letter_id in wanted:
            if letter_id not in known:
                raise UsageError(f"LETTER: there is none at {letter_id}")
        named = {known[letter_id].letter.id: known[letter_id] for letter_id in wanted}
        among = [one for one in listed if one.outcome is None] if every else list(named.values())
        yield opened, _chosen(among, reason, stage)


def _chosen(found: "Sequence[Listed]", reason: str | None, stage: str | None) -> "list[Listed]":
    """Choose the records of which at least one copy has that reason and stage."""
    return [
        one
        for one in found
        if any(
            reason in (None, letter.reason) and stage in (None, letter.stage)
            for letter in one.letters
        )
    ]


def _wire_listed(one: "Listed") -> dict[str, Any]:
    return _wire(one.letter) | {
        "outcome": one.outcome,
        "spaces": one.spaces,
        "letters": [
            {"letter": str(letter.id), "space": letter.space, "reason": letter.reason}
            for letter in one.letters
        ],
    }


def _wire(letter: "Letter") -> dict[str, Any]:
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


def _line(one: "Listed") -> str:
    wire = _wire(one.letter)
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


def _readable(value: bytes, *, whole: bool) -> str:
    """Show a value that is text (`whole`: of any characters), or its size and how it begins."""
    try:
        text = value.decode()
    except UnicodeDecodeError:
        text = ""
    if value and not (text if whole else text.isprintable()):
        return f"{len(value)} bytes, beginning with {value[:16].hex()}"
    return text
