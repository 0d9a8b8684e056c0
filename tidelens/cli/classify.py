"""`tidelens classify`: the labels that fit a picture, a text or an item best."""

from pathlib import Path
from typing import Any

import click

from contracts.topics import TARGETS
from contracts.wire.client_messages import Classify
from contracts.wire.parser import parse_classify
from tidelens.cli.base.command import Argument, Command, Example
from tidelens.cli.base.options import NamedPath, Option, json_option, node_options
from tidelens.cli.base.query import read_image
from tidelens.cli.base.terminal import say, say_json
from tidelens.ingest.text_files import read_lines


def _read_lines(context: click.Context, parameter: click.Parameter, path: Path | None) -> list[str]:
    if path is None:
        return []
    return read_lines(path, parameter.opts[0])


@click.command(
    cls=Command,
    examples=[
        Example(
            "tidelens classify --image cat.png --label cat --label dog --label car",
            "Show which of three labels a picture fits best.",
        ),
        Example(
            "tidelens classify --id openmoji/1F410 --labels labels.txt -k 3",
            "Show the three best labels for an indexed picture, from a file of labels.",
        ),
    ],
)
@click.argument("text", cls=Argument, required=False, help="Text to classify.")
@click.option(
    "--image",
    type=NamedPath(exists=True, dir_okay=False),
    callback=read_image,
    help="Classify this picture.",
)
@click.option("--id", metavar="ID", help="Classify the indexed item with this id.")
@click.option(
    "--of",
    cls=Option,
    type=click.Choice(TARGETS),
    default_text="images",
    help="Target that the item of --id belongs to.",
)
@click.option(
    "--label", "labels", metavar="LABEL", multiple=True, help="One of the labels. Give several."
)
@click.option(
    "--labels",
    "labels_file",
    type=NamedPath(exists=True, dir_okay=False),
    callback=_read_lines,
    help="File with one label on each line.",
)
@click.option(
    "--template",
    "templates",
    cls=Option,
    metavar="TEXT",
    multiple=True,
    default_text=", ".join(
        Classify.model_fields["templates"].get_default(call_default_factory=True)
    ),
    help="Text that each label is put into, in place of {}. The vectors of several are averaged.",
)
@click.option(
    "-k",
    cls=Option,
    type=int,
    default_text=str(Classify.model_fields["k"].default),
    help="Number of labels to show.",
)
@node_options
@json_option
def classify(
    labels: tuple[str, ...],
    labels_file: list[str],
    templates: tuple[str, ...],
    url: str | None,
    data: Path | None,
    as_json: bool,
    **members: Any,
) -> None:
    """Show which labels fit a picture, a text or an item best.

    Give exactly one of TEXT, --image and --id, and the labels. Each line has the probability of a
    label among those given, its score, and the label.
    """
    from tidelens.cli.base.collection_choice import node_context

    asked = {name: value for name, value in members.items() if value is not None}
    asked["labels"] = [*labels, *labels_file]
    if templates:
        asked["templates"] = list(templates)
    if "id" in asked:
        asked.setdefault("of", "images")
    parse_classify(asked)

    answer = node_context(url, data).ask(lambda client: client.classify(asked))
    if as_json:
        say_json(answer)
        return
    for one in answer["labels"]:
        say(f"{one['probability']:7.2%}  {one['score']:.4f}  {one['label']}")
