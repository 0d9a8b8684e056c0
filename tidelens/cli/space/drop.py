"""`tidelens space drop`: gives up a space that is not active."""

import asyncio
from typing import Any

import click

from tidelens.cli.base.command import Argument, Command, Example
from tidelens.cli.base.options import collection_options, json_option
from tidelens.cli.base.terminal import say, say_json


@click.command(
    cls=Command,
    examples=[
        Example("tidelens space drop vit-b-32-3f9a01c2", "Give up the space of this name."),
        Example(
            "tidelens space drop starter --brokers kafka:9092",
            "Do so for a collection on another machine.",
        ),
    ],
)
@click.argument(
    "space", cls=Argument, help="Name of the space, as `tidelens space status` shows it."
)
@collection_options
@json_option
def drop(space: str, as_json: bool, **collection_given: Any) -> None:
    """Give up the space that is being made, or the one before.

    The space before is the one kept for a rollback. Nodes and `up` stop keeping a dropped space.
    Its topics stay, so making it again continues from them. `tidelens lag --forget` deletes its
    groups.
    """
    from tidelens.cli.base.open_collection import open_collection
    from tidelens.migration.switch import drop as drop_space

    async def run() -> None:
        async with open_collection("space", **collection_given) as collection:
            await drop_space(collection, space)

    asyncio.run(run())
    if as_json:
        say_json({"dropped": space})
    else:
        say(f"dropped {space}")
