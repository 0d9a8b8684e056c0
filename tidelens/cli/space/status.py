"""`tidelens space status`: lists the spaces of a collection."""

import asyncio
from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click

from tidelens.cli.base.command import Command, Example
from tidelens.cli.base.options import collection_options, json_option
from tidelens.cli.base.terminal import say, say_json

if TYPE_CHECKING:
    from tidelens.migration.status import SpaceStatus

_STATES = {
    "active": "active",
    "previous": "kept for a rollback",
    "candidate": "being made",
}


@click.command(
    cls=Command,
    examples=[
        Example("tidelens space status", "List the spaces of the running `up`."),
        Example(
            "tidelens space status --brokers kafka:9092 --json",
            "List those of a collection on another machine, for a program.",
        ),
    ],
)
@collection_options
@json_option
def status(as_json: bool, **collection_given: Any) -> None:
    """List the spaces of the collection.

    These are the active one, the one that is kept for a rollback, and the one that is being made.
    """
    from tidelens.cli.base.open_collection import open_collection

    async def run() -> "list[SpaceStatus]":
        from tidelens.migration.status import space_status
        from tidelens.runtime.run_file import model_of

        async with open_collection("space", quiet=True, **collection_given) as collection:
            return await space_status(collection, model_of(collection.settings))

    found = asyncio.run(run())
    if as_json:
        say_json({"spaces": [_wire(one) for one in found]})
    else:
        say(*map(_line, found))


def _wire(one: "SpaceStatus") -> dict[str, Any]:
    found = asdict(one)
    return {**found.pop("ref"), **found}


def _line(one: "SpaceStatus") -> str:
    state = _STATES[one.state]
    if one.state == "candidate":
        state += ", encoded" if one.encoded else ", not encoded yet"
    if one.since is not None:
        since = datetime.fromtimestamp(one.since, UTC)
        state += f", since {since.isoformat(timespec='seconds').replace('+00:00', 'Z')}"
    encoder = "an encoder keeps it current" if one.has_encoder else "no encoder runs"
    return f"{one.ref.space}: {state}; {encoder}; model {one.ref.model}"
