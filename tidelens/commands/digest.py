"""`tidelens digest`: the index state's digest, with the offsets that it belongs to."""

import asyncio
from typing import Any

import click

from tidelens.options import json_option, url_option
from tidelens.terminal import say, say_json


@click.command()
@url_option
@click.option("--verify", is_flag=True, help="Recompute it from the rows.")
@json_option
def digest(url: str | None, verify: bool, as_json: bool) -> None:
    """Show the digest of each partition; equal offsets must have equal digests."""
    from contracts.errors import DigestMismatch
    from tidelens.acting import node_of
    from tidelens.client import Client

    node = node_of(url)

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
