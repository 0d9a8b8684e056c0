"""`tidelens rebuild`: builds the segments of the running node again."""

import asyncio
from pathlib import Path
from typing import Any

import click

from contracts.topics import TARGETS
from tidelens.cli.base.command import Command, Example
from tidelens.cli.base.options import json_option, node_options
from tidelens.cli.base.terminal import say, say_json
from tidelens.cli.space.old_options import are_given, old_options, run_old_options


@click.command(
    cls=Command,
    examples=[
        Example("tidelens rebuild", "Build all sealed segments of the running node again."),
        Example(
            "tidelens rebuild --target images --url http://127.0.0.1:8081",
            "Build those of one target on another node.",
        ),
    ],
)
@click.option(
    "--target",
    "targets",
    multiple=True,
    type=click.Choice(TARGETS),
    help="Target whose segments are built. May be repeated.",
)
@old_options
@node_options
@json_option
def rebuild(as_json: bool, **options: Any) -> None:
    """Build the sealed segments of a running node again.

    The node answers searches meanwhile. For another index type, restart the node with another
    TIDELENS_INDEX_KIND first. `tidelens space` moves a collection to another model.
    """
    if are_given(options):
        asyncio.run(run_old_options(options, as_json=as_json))
    else:
        _rebuild(options["targets"], options["url"], options["data"], as_json=as_json)


def _rebuild(
    targets: tuple[str, ...], url: str | None, data: Path | None, *, as_json: bool
) -> None:
    from tidelens.cli.base.collection_choice import node_context

    body = {"targets": list(targets)} if targets else None
    answer = node_context(url, data).ask(lambda client: client.post("/v1/admin/rebuild", body))
    rebuilt = answer["rebuilt"]
    if as_json:
        say_json(rebuilt)
        return
    for one in rebuilt:
        say("{target}: {rows} rows, {kind}, {seconds:.1f} s".format(**one))
