"""`tidelens index tune`: what each effort of the index costs and reaches."""

import asyncio
from typing import Any

import click

from tidelens.options import json_option, url_option
from tidelens.terminal import say, say_json


@click.command()
@url_option
@json_option
def tune(url: str | None, as_json: bool) -> None:
    """Show the recall and latency of each segment's operating points; * is the one in use.

    Measured when the segment was sealed, on sampled vectors of both targets and late queries.
    """
    from tidelens.acting import node_of
    from tidelens.client import Client

    node = node_of(url)

    async def run() -> Any:
        async with Client(node.url) as client:
            return (await client.get("/v1/admin/segments"))["segments"]

    segments = asyncio.run(run())
    node.tell()
    if as_json:
        say_json(segments)
        return
    for segment in segments:
        say("{target}: {rows} rows, {kind}".format(**segment))
        for point in segment["points"]:
            mark = "*" if point["used"] else " "
            say(
                f"  {mark} effort {point['effort']:5}  depth {point['depth']:3}  "
                f"recall@10 {point['recall']:.3f}  {point['ms']:.3f} ms"
            )
