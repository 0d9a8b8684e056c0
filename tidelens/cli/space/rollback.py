"""`tidelens space rollback`: lets all nodes answer in the space before the last switch."""

import asyncio
from dataclasses import asdict
from typing import Any

import click

from tidelens.cli.base.command import Command, Example
from tidelens.cli.base.options import collection_options, json_option
from tidelens.cli.base.terminal import say_json
from tidelens.cli.space.active import show_active, warn_without_encoder


@click.command(
    cls=Command,
    examples=[
        Example("tidelens space rollback", "Let all nodes answer in the space before."),
        Example(
            "tidelens space rollback --brokers kafka:9092 --json",
            "Do so from another machine, and print the active space for a program.",
        ),
    ],
)
@collection_options
@json_option
def rollback(as_json: bool, **collection_given: Any) -> None:
    """Return to the space that was active before the last switch.

    The space that nodes leave stays ready in its turn, so a second rollback returns to it.
    """
    from tidelens.cli.base.open_collection import open_collection
    from tidelens.migration.switch import roll_back

    async def run() -> None:
        async with open_collection("space", **collection_given) as collection:
            active = await roll_back(collection)
            if as_json:
                say_json({"active": asdict(active)})
            else:
                show_active(active)
            await warn_without_encoder(collection, active)

    asyncio.run(run())
