"""`tidelens watch`: a live subscription on the terminal, changes as they come."""

import asyncio
from typing import Any

import click

from tidelens.commands.search import build_query, line_of, query_options, show_warnings
from tidelens.options import json_option, url_option
from tidelens.terminal import say, say_json

_MARKS = {"enter": "+", "leave": "-", "move": "~", "update": "="}


@click.command()
@query_options
@url_option
@json_option
@click.option("--cursor", help="Resume from where an earlier watch ended.")
@click.option(
    "--mode",
    type=click.Choice(["top", "matches"]),
    default="top",
    help="The best k as they change, or every match as it comes.",
)
@click.option("--throttle-ms", type=int, default=0, help="Mode top: at most one message in these.")
@click.option(
    "--min-change", type=float, default=0.0, help="Mode top: smallest change of a score told of."
)
@click.option("--changes", "changes_max", type=int, help="End after this many messages.")
def watch(
    url: str | None,
    as_json: bool,
    cursor: str | None,
    mode: Any,
    throttle_ms: int,
    min_change: float,
    changes_max: int | None,
    **query: Any,
) -> None:
    """Watch the results for TEXT, a picture, an item or --query change, until stopped."""
    from tidelens.acting import node_of
    from tidelens.client import Client

    asked = build_query(**query)

    node = node_of(url)

    async def run() -> None:
        seen = 0
        async with Client(node.url) as client:
            async for update in client.watch(
                asked, cursor=cursor, mode=mode, throttle_ms=throttle_ms, min_change=min_change
            ):
                if not seen:
                    node.tell()
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
