"""`tidelens index tune`: the cost and the recall of each effort of the index."""

from pathlib import Path

import click

from tidelens.cli.base.command import Command, Example
from tidelens.cli.base.options import json_option, node_options
from tidelens.cli.base.terminal import say, say_json

# The node only reads what it knows.
_TIMEOUT_S = 60.0


@click.command(
    cls=Command,
    examples=[
        Example("tidelens index tune", "Show the segments of the running node."),
        Example(
            "tidelens index tune --url http://127.0.0.1:8081 --json",
            "Show those of another node, for a program.",
        ),
    ],
)
@node_options
@json_option
def tune(url: str | None, data: Path | None, as_json: bool) -> None:
    """Show the recall and latency that each segment can reach.

    A star marks the operating point in use. The figures were measured when the segment was merged,
    with sampled vectors of both targets and with recent queries.
    """
    from tidelens.cli.base.collection_choice import node_context

    node = node_context(url, data)
    answer = node.ask(lambda client: client.get("/v1/admin/segments"), timeout_s=_TIMEOUT_S)
    segments = answer["segments"]
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
