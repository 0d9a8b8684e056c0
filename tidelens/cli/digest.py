"""`tidelens digest`: the digest of the index, with the offsets that it belongs to."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tidelens.cli.base.command import Command, Example
from tidelens.cli.base.options import json_option, node_options
from tidelens.cli.base.terminal import say, say_json

if TYPE_CHECKING:
    from tidelens.client import Client


@click.command(
    cls=Command,
    examples=[
        Example("tidelens digest", "Show the digests that the running node keeps."),
        Example(
            "tidelens digest --verify --url http://127.0.0.1:8081",
            "Let another node compute its digests from its rows, and compare.",
        ),
    ],
)
@click.option(
    "--verify",
    is_flag=True,
    help="Compute the digests from the rows in memory, and fail if they differ.",
)
@node_options
@json_option
def digest(verify: bool, url: str | None, data: Path | None, as_json: bool) -> None:
    """Show the digest of each partition of a node's index.

    Two nodes that have reached the same offset of a partition must show the same digest of it.
    """
    from contracts.errors import DigestMismatch
    from tidelens.cli.base.collection_choice import node_context

    async def ask_digests(client: "Client") -> Any:
        if not verify:
            return (await client.get("/v1/status"))["digests"]
        found = await client.post("/v1/admin/verify")
        if not found["verified"]:
            raise DigestMismatch("the rows in memory do not have the digest that was kept")
        return found["digests"]

    digests = node_context(url, data).ask(ask_digests)
    if as_json:
        say_json(digests)
        return
    for entry in digests:
        say("{topic}-{partition} @{offset}  {digest}".format(**entry))
