"""`tidelens search`: one query, answered now."""

from pathlib import Path
from typing import Any

import click

from tidelens.cli.base.command import Command, Example
from tidelens.cli.base.hits import line_of, show_warnings
from tidelens.cli.base.options import json_option, node_options
from tidelens.cli.base.query import build_query, query_options
from tidelens.cli.base.terminal import say, say_json


@click.command(
    cls=Command,
    examples=[
        Example('tidelens search "a red cat" -k 3', "Show the three best pictures for a text."),
        Example(
            "tidelens search --image cat.png --target captions --filter 'lang = \"en\"'",
            "Show the English captions that fit a picture best.",
        ),
    ],
)
@query_options
@node_options
@json_option
def search(url: str | None, data: Path | None, as_json: bool, **query: Any) -> None:
    """Search once and show the best results.

    Give exactly one of TEXT, --image and --id, or a whole query with --query.
    """
    from tidelens.cli.base.collection_choice import node_context

    asked = build_query(**query)
    # The server ends the wait, by its own limit if not by the query's.
    answer = node_context(url, data).ask(lambda client: client.search(asked))
    if as_json:
        say_json(answer)
        return
    show_warnings(answer.get("warnings", ()))
    for hit in answer["hits"]:
        say(line_of(hit))
    if not answer["hits"]:
        say("no hits", err=True)
