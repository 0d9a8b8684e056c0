"""`tidelens space create`: encodes everything with another model, beside live traffic."""

import asyncio
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tidelens.cli.base.command import Argument, Command, Example
from tidelens.cli.base.options import collection_options, json_option, url_option
from tidelens.cli.base.terminal import say_json
from tidelens.cli.space.comparison import open_served, queries_option, show_report

if TYPE_CHECKING:
    from tidelens.migration.collection import OpenCollection
    from tidelens.migration.report import ComparisonReport, Progress


@click.command(
    cls=Command,
    examples=[
        Example(
            "tidelens space create ./vit-b-32",
            "Make the space of a checkpoint, and compare its answers with those of today.",
        ),
        Example(
            "tidelens space create starter --queries queries.txt --json",
            "Compare answers to texts of your own, and print the figures for a program.",
        ),
    ],
)
@click.argument(
    "model",
    cls=Argument,
    help="Model of the new space: `starter`, a folder, or the name of a checkpoint on the Hugging "
    "Face hub.",
)
@queries_option
@url_option
@collection_options
@json_option
def create(
    model: str, queries: Path | None, url: str | None, as_json: bool, **collection_given: Any
) -> None:
    """Make the space of another model.

    It encodes all items, builds an index of them, and compares its answers with those of a running
    node, which answers as before meanwhile. The command may be stopped at any point; started again,
    it continues. Nodes keep answering in the active space until `tidelens space switch`.
    """
    from tidelens.cli.base.open_collection import open_collection

    async def run() -> "ComparisonReport":
        async with open_collection("space", **collection_given) as collection:
            return await make(collection, model, queries=queries, url=url)

    report = asyncio.run(run())
    if as_json:
        say_json(report.wire())
    else:
        show_report(report)


async def make(
    collection: "OpenCollection",
    model: str,
    *,
    queries: Path | None,
    url: str | None,
    space: str | None = None,
) -> "ComparisonReport":
    """Make the space of `model`. Raises ConfigurationError if that is not called `space`."""
    from contracts.errors import ConfigurationError
    from tidelens.migration.create import make_space, new_space
    from tidelens.migration.switch import active_space
    from tidelens.runtime.run_file import model_of

    old = await active_space(collection, model_of(collection.settings))
    ref = await new_space(collection, old, model)
    if space not in (None, ref.space):
        raise ConfigurationError(f"--space {space}: model {model!r} makes space {ref.space}")
    async with open_served(collection, old, queries=queries, url=url) as served:
        with _progress() as on_progress:
            return await make_space(collection, served, ref, on_progress)


@contextmanager
def _progress() -> "Iterator[Progress]":
    """Show records, rate and remaining time on stderr, if it is a terminal."""
    from tqdm import tqdm

    with tqdm(desc="encoding", unit=" records", disable=not sys.stderr.isatty()) as bar:

        def update(done: int, total: int) -> None:
            if bar.total is None:
                # Records of earlier runs do not count for the rate of this one.
                bar.initial = bar.n = done
            bar.total = total
            bar.update(done - bar.n)
            bar.refresh()

        yield update
