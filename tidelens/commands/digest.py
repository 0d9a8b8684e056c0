"""`tidelens digest`: the index state's digest, with the offsets that it belongs to."""

import asyncio
from typing import Any

import click
import orjson

from tidelens.options import json_option, url_option


@click.command()
@url_option
@json_option
def digest(url: str | None, as_json: bool) -> None:
    """Show the digest of each partition; equal offsets must have equal digests."""
    from contracts import settings
    from tidelens.client import Client
    from tidelens.runtime import api_of

    async def run() -> Any:
        async with Client(url or api_of(settings.load())) as client:
            return (await client.get("/v1/status"))["digests"]

    digests = asyncio.run(run())
    if as_json:
        click.echo(orjson.dumps(digests))
        return
    for entry in digests:
        click.echo("{topic}-{partition} @{offset}  {digest}".format(**entry))
