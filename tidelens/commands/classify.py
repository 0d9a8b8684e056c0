"""`tidelens classify`: which of some labels fits a picture, a text or an item best."""

import asyncio
from pathlib import Path
from typing import Any

import click

from contracts.message_parser import parse_classify
from contracts.topics import TARGETS
from tidelens.commands.search import read_image
from tidelens.options import NamedPath, json_option, url_option
from tidelens.terminal import say, say_json
from tidelens.texts import listed


def _read_lines(context: click.Context, parameter: click.Parameter, path: Path | None) -> list[str]:
    if path is None:
        return []
    return listed(path, parameter.opts[0])


@click.command()
@click.argument("text", required=False)
@click.option(
    "--image",
    type=NamedPath(exists=True, dir_okay=False),
    callback=read_image,
    help="Classify a picture.",
)
@click.option("--id", help="Classify an indexed item, with --of (images).")
@click.option("--of", type=click.Choice(TARGETS))
@click.option("--label", "labels", multiple=True, help="One of the labels; give several.")
@click.option(
    "--labels",
    "labels_file",
    type=NamedPath(exists=True, dir_okay=False),
    callback=_read_lines,
    help="A file with a label on each line.",
)
@click.option(
    "--template",
    "templates",
    multiple=True,
    help="What a label is put into, in place of {}; several are averaged ('a photo of a {}.').",
)
@click.option("-k", type=int, help="How many labels to show (5).")
@url_option
@json_option
def classify(
    url: str | None,
    as_json: bool,
    labels: tuple[str, ...],
    labels_file: list[str],
    templates: tuple[str, ...],
    **members: Any,
) -> None:
    """Say which labels fit TEXT, a picture or an item best, and how likely each is among them."""
    from tidelens.acting import node_of
    from tidelens.client import Client

    asked = {name: value for name, value in members.items() if value is not None}
    asked["labels"] = [*labels, *labels_file]
    if templates:
        asked["templates"] = list(templates)
    if "id" in asked:
        asked.setdefault("of", "images")
    parse_classify(asked)

    node = node_of(url)

    async def run() -> Any:
        # The server ends every wait.
        async with Client(node.url, timeout_s=None) as client:
            return await client.classify(asked)

    answer = asyncio.run(run())
    node.tell()
    if as_json:
        say_json(answer)
        return
    for one in answer["labels"]:
        say(f"{one['probability']:7.2%}  {one['score']:.4f}  {one['label']}")
