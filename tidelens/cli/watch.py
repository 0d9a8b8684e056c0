"""`tidelens watch`: a live subscription on the terminal, changes as they come."""

import asyncio
from pathlib import Path
from typing import Any

import click

from tidelens.cli.base.command import Command, Example
from tidelens.cli.base.hits import line_of, show_warnings
from tidelens.cli.base.options import Option, json_option, node_options
from tidelens.cli.base.query import build_query, subscription_options
from tidelens.cli.base.terminal import say, say_json

_MARKS = {"enter": "+", "leave": "-", "move": "~", "update": "="}


@click.command(
    cls=Command,
    examples=[
        Example(
            'tidelens watch "a red cat" -k 3',
            "Show the three best pictures for a text, and every change of this list.",
        ),
        Example(
            'tidelens watch "a red cat" --mode matches --min-score 0.3',
            "Show each new picture that fits a text well, as an alert.",
        ),
    ],
)
@subscription_options
@click.option(
    "--mode",
    type=click.Choice(["top", "matches"]),
    default="top",
    help="Follow the list of the -k best results, or report every new match.",
)
@click.option(
    "--throttle-ms",
    type=int,
    default=0,
    help="Mode top: shortest time between two messages, in milliseconds.",
)
@click.option(
    "--min-change",
    type=float,
    default=0.0,
    help="Mode top: smallest change of a score that is reported by itself.",
)
@click.option(
    "--cursor",
    metavar="CURSOR",
    help="Resume where an earlier watch ended, at a cursor that --json printed.",
)
@click.option(
    "--changes",
    "changes_max",
    cls=Option,
    type=int,
    metavar="NUMBER",
    default_text="no end",
    help="End after this number of messages.",
)
@node_options
@json_option
def watch(
    mode: Any,
    throttle_ms: int,
    min_change: float,
    cursor: str | None,
    changes_max: int | None,
    url: str | None,
    data: Path | None,
    as_json: bool,
    **query: Any,
) -> None:
    """Watch how the results of a query change, until stopped.

    Give exactly one of TEXT, --image and --id, or a whole query with --query. Each line begins
    with its change: + entered, - left, ~ moved, = changed in place, ! matched.
    """
    from tidelens.cli.base.collection_choice import node_context
    from tidelens.client import Client

    asked = build_query(**query)

    node = node_context(url, data)

    async def run() -> None:
        seen = 0
        async with Client(node.url) as client:
            async for update in client.watch(
                asked, cursor=cursor, mode=mode, throttle_ms=throttle_ms, min_change=min_change
            ):
                if not seen:
                    node.announce()
                _show(update, as_json)
                seen += 1
                if changes_max is not None and seen >= changes_max:
                    return

    asyncio.run(run())


def _show(update: Any, as_json: bool) -> None:
    if as_json:
        members = {
            "event": update.event,
            "changes": list(update.changes),
            "hits": list(update.hits),
            "cursor": update.cursor,
            "reason": update.reason,
            **({"warnings": list(update.warnings)} if update.warnings else {}),
        }
        say_json(members)
        return
    show_warnings(update.warnings)
    if update.event == "match":
        for hit in update.hits:
            say(f"! {line_of(hit)}")
    elif update.event != "delta":
        say(f"# {update.event}" + (f": {update.reason}" if update.reason else ""))
    for change in update.changes:
        mark = _MARKS[change["change"]]
        hit = change.get("hit")
        say(f"{mark} {line_of(hit) if hit else change['id']}")
