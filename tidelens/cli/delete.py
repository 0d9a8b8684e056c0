"""`tidelens delete`: removes items by id."""

import asyncio
from typing import TYPE_CHECKING, Any

import click

from contracts.topics import TARGETS, Target
from tidelens.cli.base.command import Argument, Command, Example
from tidelens.cli.base.options import collection_options, json_option
from tidelens.cli.base.published import open_log, show_report

if TYPE_CHECKING:
    from tidelens.ingest.publisher import PublishResult


@click.command(
    cls=Command,
    examples=[
        Example("tidelens delete images cats/1.jpg", "Delete one picture."),
        Example(
            "tidelens delete captions greeting news/7 --json",
            "Delete two captions, and print tokens for --wait-for.",
        ),
    ],
)
@click.argument(
    "target", cls=Argument, type=click.Choice(TARGETS), help="Target that the items belong to."
)
@click.argument("ids", cls=Argument, nargs=-1, required=True, help="Ids of the items.")
@collection_options
@json_option
def delete(target: Target, ids: tuple[str, ...], as_json: bool, **collection_given: Any) -> None:
    """Delete items by their ids.

    The exit code is 1 if an id was refused.
    """
    from tidelens.cli.base.collection_choice import command_context
    from tidelens.ingest.publisher import delete as delete_all

    context = command_context("delete", **collection_given)

    async def run() -> "PublishResult":
        async with open_log(context) as (event_log, names):
            return await delete_all(event_log, names, target, ids)

    show_report(asyncio.run(run()), "deleted", as_json=as_json)
