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
    from contracts import settings
    from tidelens.client import Client
    from tidelens.runtime import api_of

    async def run() -> Any:
        async with Client(url or api_of(settings.load())) as client:
            return (await client.get("/v1/admin/segments"))["segments"]

    segments = asyncio.run(run())
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
