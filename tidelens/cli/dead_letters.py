"""`tidelens dead-letters`: lists, shows, retries and discards refused records."""

import asyncio
import sys
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tidelens.cli.base.command import Argument, Example, Group
from tidelens.cli.base.letters import line_of, readable, wire_listed, wire_of
from tidelens.cli.base.options import NamedPath, collection_options, in_order, json_option
from tidelens.cli.base.terminal import say, say_json

if TYPE_CHECKING:
    from contracts.events.dead_letter import LetterId
    from contracts.events.record import Record
    from streams.registry.dead_letter_desk import DeadLetterDesk, LetterGroup, RetryResult

_REFUSALS = {
    "truncated": "the letter has only its beginning, and the original is no longer in the log: "
    "publish it again from where it came",
    "gone": "the letter is no longer in the log",
    "not_content": "not from a content topic: publish its item again instead",
}


@click.group(
    "dead-letters",
    cls=Group,
    examples=[
        Example("tidelens dead-letters list", "Show every record that waits for a decision."),
        Example("tidelens dead-letters retry --all", "Publish all of them again."),
    ],
)
def dead_letters() -> None:
    """List, show, retry or discard records that were refused.

    A LETTER is PARTITION:OFFSET in the dead-letters topic, as `list` shows it.
    """


_reason_options = in_order(
    click.option("--reason", metavar="CODE", help="Only letters with this reason."),
    click.option(
        "--stage", metavar="STAGE", help="Only letters of this stage, `encode` or `index`."
    ),
)
_selection = in_order(
    click.argument(
        "letters",
        cls=Argument,
        nargs=-1,
        help="Letters, each as PARTITION:OFFSET.",
    ),
    click.option(
        "--all", "every", is_flag=True, help="All letters that wait for a decision, not LETTERS."
    ),
    _reason_options,
    collection_options,
    json_option,
)
"""The parameters that select letters: those that `_asked` takes."""


@dead_letters.command(
    "list",
    examples=[
        Example("tidelens dead-letters list", "Show every record that waits for a decision."),
        Example(
            "tidelens dead-letters list --reason too_large --handled --json",
            "Show all letters with one reason, for a program.",
        ),
    ],
)
@_reason_options
@click.option(
    "--handled", is_flag=True, help="Show letters that were retried, superseded or discarded too."
)
@collection_options
@json_option
def list_(
    reason: str | None, stage: str | None, handled: bool, as_json: bool, **collection_given: Any
) -> None:
    """Show the letters that wait for a decision.

    They are shown in the order of the log. Each space refuses a bad record for itself, so that a
    new space writes another letter of it. Such copies are shown on one line, under the LETTER of
    the oldest, with the names of their spaces. --json lists each of them.
    """

    async def run() -> "list[LetterGroup]":
        async with _opened(**collection_given) as letters:
            return await letters.all()

    found = [
        one for one in _chosen(asyncio.run(run()), reason, stage) if handled or one.outcome is None
    ]
    if as_json:
        say_json([wire_listed(one) for one in found])
        return
    for one in found:
        say(line_of(one))
    counts = Counter(one.letter.reason for one in found)
    summary = ", ".join(f"{count} {name}" for name, count in counts.most_common())
    noun = "letter" if len(found) == 1 else "letters"
    say(f"{len(found)} {noun}" + (f": {summary}" if summary else ""), err=True)


@dead_letters.command(
    examples=[
        Example("tidelens dead-letters show 0:17", "Show why a record was refused."),
        Example(
            "tidelens dead-letters show 0:17 --save record.bin",
            "Write the bytes of its value to a file as well.",
        ),
    ]
)
@click.argument("letter", cls=Argument, help="Letter, as PARTITION:OFFSET.")
@click.option(
    "--save", type=NamedPath(), help="Write the bytes of the original value to this file."
)
@collection_options
@json_option
def show(letter: str, save: Path | None, as_json: bool, **collection_given: Any) -> None:
    """Show one letter: why it was refused, and the original record."""
    from contracts.events.dead_letter import original_headers, read_letter

    [letter_id] = _ids([letter])

    async def run() -> "Record":
        async with _opened(**collection_given) as letters:
            return await letters.original(letter_id)

    record = asyncio.run(run())
    read = read_letter(record)
    assert read is not None
    value = record.value or b""
    if save is not None:
        save.write_bytes(value)
    answer = wire_of(read) | {
        "headers": {name: raw.decode("utf-8", "replace") for name, raw in original_headers(record)},
        "value": readable(value, whole=as_json),
    }
    if as_json:
        say_json(answer)
        return
    headers = answer.pop("headers")
    for name, shown in answer.items():
        say(f"{name:>10}  {shown}")
    for name, shown in headers.items():
        say(f"{'header':>10}  {name}: {shown}")


@dead_letters.command(
    examples=[
        Example(
            "tidelens dead-letters retry 0:17 2:4", "Publish the records of two letters again."
        ),
        Example(
            "tidelens dead-letters retry --all --stage encode",
            "Publish all records again that could not be encoded.",
        ),
    ]
)
@_selection
def retry(as_json: bool, **asked: Any) -> None:
    """Publish the original records of LETTERS again.

    Each goes to the partition that its key belongs to. A letter whose item has a newer record is
    marked as superseded instead. A record is published once even if several of its copies are
    named, and all copies are marked. If another program publishes the same item within the same
    milliseconds, the older record may overwrite the newer one. A record that fails again becomes
    another letter.
    """

    async def run() -> "list[RetryResult]":
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
        summary = ", ".join(f"{counts.pop(name, 0)} {name}" for name in ("retried", "superseded"))
        say(summary)
        for one in done:
            if one.refusal is not None:
                say(f"not retried: {one.listed.letter.id}: {_REFUSALS[one.refusal]}", err=True)
    if any(one.refusal for one in done):
        sys.exit(1)


@dead_letters.command(
    examples=[
        Example("tidelens dead-letters discard 0:17", "Take one letter off the list."),
        Example(
            "tidelens dead-letters discard --all --reason too_large",
            "Take all letters with one reason off the list.",
        ),
    ]
)
@_selection
def discard(as_json: bool, **asked: Any) -> None:
    """Mark LETTERS as discarded, so that they are not listed.

    Their copies are marked too. The letters stay in the log.
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
async def _opened(**given: Any) -> "AsyncIterator[DeadLetterDesk]":
    from contracts.events.dead_letter import letter_bytes_max
    from contracts.partitioner import partitioner
    from streams.registry.dead_letter_desk import DeadLetterDesk
    from tidelens.cli.base.collection_choice import command_context
    from tidelens.runtime.event_log import open_event_log

    context = await asyncio.to_thread(command_context, "dead-letters", **given)
    settings, connection = context.settings, context.connection()
    async with (
        connection.errors_translated(),
        open_event_log(
            settings, connection, record_bytes_max=letter_bytes_max(settings.record_bytes_max)
        ) as log,
    ):
        yield DeadLetterDesk(log, context.names(), partitioner(settings.partitioner))
    context.announce()


def _ids(letters: Sequence[str]) -> "list[LetterId]":
    from contracts.errors import UsageError
    from contracts.events.dead_letter import LetterId

    try:
        return [LetterId.parse(letter) for letter in letters]
    except ValueError as error:
        raise UsageError(f"LETTER: {error}") from None


@asynccontextmanager
async def _asked(
    *,
    letters: Sequence[str],
    every: bool,
    reason: str | None,
    stage: str | None,
    **collection_given: Any,
) -> "AsyncIterator[tuple[DeadLetterDesk, list[LetterGroup]]]":
    """Open the dead letters, with those that are selected.

    Named letters are selected whatever was done to them, and `every` selects those that wait for a
    decision. Raises UsageError.
    """
    from contracts.errors import UsageError

    async with _opened(**collection_given) as opened:
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


def _chosen(
    found: "Sequence[LetterGroup]", reason: str | None, stage: str | None
) -> "list[LetterGroup]":
    """Choose the records of which at least one copy has that reason and stage."""
    return [
        one
        for one in found
        if any(
            reason in (None, letter.reason) and stage in (None, letter.stage)
            for letter in one.letters
        )
    ]
