"""`tidelens space compare`: compares a new space with the active one once more."""

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tidelens.cli.base.command import Command, Example
from tidelens.cli.base.options import collection_options, json_option, url_option
from tidelens.cli.base.terminal import say_json
from tidelens.cli.space.comparison import open_served, queries_option, show_report

if TYPE_CHECKING:
    from tidelens.migration.report import ComparisonReport


@click.command(
    cls=Command,
    examples=[
        Example("tidelens space compare", "Compare answers to the recent queries of a node."),
        Example(
            "tidelens space compare --queries queries.txt",
            "Compare answers to texts of your own.",
        ),
    ],
)
@queries_option
@url_option
@collection_options
@json_option
def compare(queries: Path | None, url: str | None, as_json: bool, **collection_given: Any) -> None:
    """Compare the new space with the active one.

    It shows the number of items in both, the items that are missing in the new one, and for each
    target two figures. The overlap is the share of results that both spaces give. The recall is the
    share of the best results of the new space that its index finds. It needs a space that `tidelens
    space create` has encoded.
    """
    from tidelens.cli.base.open_collection import open_collection

    async def run() -> "ComparisonReport":
        from tidelens.migration.create import compare_space
        from tidelens.migration.switch import active_space, encoded_candidate
        from tidelens.runtime.run_file import model_of

        async with open_collection("space", **collection_given) as collection:
            old = await active_space(collection, model_of(collection.settings))
            candidate = await encoded_candidate(collection, old)
            async with open_served(collection, old, queries=queries, url=url) as served:
                return await compare_space(collection, served, candidate.ref)

    report = asyncio.run(run())
    if as_json:
        say_json(report.wire())
    else:
        show_report(report)
