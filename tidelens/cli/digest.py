"""`tidelens digest`: the digest of the index, with the offsets that it belongs to."""

import asyncio
from pathlib import Path
from typing import Any

import click

from tidelens.cli.base.command import Command, Example
from tidelens.cli.base.options import json_option, node_options
from tidelens.cli.base.terminal import say, say_json


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
    from tidelens.client import Client

    node = node_context(url, data)

    async def run() -> Any:
        async with Client(node.url, timeout_s=None) as client:
            if not verify:
                return (await client.get("/v1/status"))["digests"]
            found = await client.post("/v1/admin/verify")
            if not found["verified"]:
                raise DigestMismatch("the rows in memory do not have the digest that was kept")
            return found["digests"]

    digests = asyncio.run(run())
    node.tell()
    if as_json:
        say_json(digests)
        return
    for entry in digests:
        say("{topic}-{partition} @{offset}  {digest}".format(**entry))
