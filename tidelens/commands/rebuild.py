"""`tidelens rebuild`: the running node builds its sealed segments anew."""

import asyncio
from typing import Any

import click
import orjson

from tidelens.options import json_option, url_option


@click.command()
@click.option(
    "--target",
    "targets",
    multiple=True,
    type=click.Choice(["images", "captions"]),
    help="Only these; may be repeated.",
)
@url_option
@json_option
def rebuild(targets: tuple[str, ...], url: str | None, as_json: bool) -> None:
    """Build the running node's sealed segments anew; searches go on meanwhile.

    For another kind of index, restart the node with TIDELENS_INDEX_KIND first.
    """
    from contracts import settings
    from tidelens.client import Client
    from tidelens.runtime import api_of

    async def run() -> Any:
        async with Client(url or api_of(settings.load()), timeout_s=None) as client:
            body = {"targets": list(targets)} if targets else None
            return (await client.post("/v1/admin/rebuild", body))["rebuilt"]

    rebuilt = asyncio.run(run())
    if as_json:
        click.echo(orjson.dumps(rebuilt))
        return
    for one in rebuilt:
        click.echo("{target}: {rows} rows, {kind}, {seconds:.1f} s".format(**one))
