"""`tidelens publish`: writes pictures and captions from files to the log."""

import asyncio
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tidelens.cli.base.command import Argument, Command, Example
from tidelens.cli.base.options import NamedPath, collection_options, json_option
from tidelens.cli.base.published import open_log, show_report
from tidelens.cli.base.terminal import say

if TYPE_CHECKING:
    from tidelens.ingest.publisher import PublishResult


@click.command(
    cls=Command,
    examples=[
        Example("tidelens publish pictures", "Publish all pictures and captions of a folder."),
        Example(
            "tidelens publish items.jsonl --json",
            "Publish the items of a JSON Lines file, and print tokens for --wait-for.",
        ),
    ],
)
@click.argument(
    "paths",
    cls=Argument,
    nargs=-1,
    required=True,
    type=NamedPath(),
    help="Pictures, .txt captions, JSON Lines files, and folders of them.",
)
@collection_options
@json_option
def publish(paths: tuple[Path, ...], as_json: bool, **collection_given: Any) -> None:
    """Publish pictures, captions, folders and JSON Lines files.

    Pictures are recognized by their content, not by their names. An item's id is its path below the
    published folder, so publishing a folder twice leaves one item of each file. A line of a JSON
    Lines file has the members "id", "text" or "image", and optionally "item" and "metadata";
    "image" is a path relative to the file. Other files in a folder are left out and counted by
    their types. The exit code is 1 if an item was refused or nothing was published.
    """
    from tidelens.cli.base.collection_choice import command_context
    from tidelens.ingest.publisher import entries_of, sources
    from tidelens.ingest.publisher import publish as publish_all

    context = command_context("publish", **collection_given)
    settings = context.settings
    files = list(sources(paths))

    async def run(advance: Callable[[int], None]) -> "PublishResult":
        async with open_log(context) as (event_log, names):
            return await publish_all(event_log, names, entries_of(files, settings), advance=advance)

    with _progress(len(files)) as advance:
        done = asyncio.run(run(advance))
    if done.by_reference and not as_json:
        say(
            f"{done.by_reference} pictures above {settings.inline_bytes_max} bytes travel by "
            "reference: encoders read them only below an --allow-root (TIDELENS_ALLOW_ROOTS)",
            err=True,
        )
    show_report(done, "published", as_json=as_json)


@contextmanager
def _progress(total: int) -> Iterator[Callable[[int], None]]:
    """Show a bar with the rate on stderr, if it is a terminal."""
    from tqdm import tqdm

    # A JSON Lines file is one file and many items, so the total is a lower bound.
    with tqdm(total=total, unit=" items", disable=not sys.stderr.isatty()) as bar:

        def advance(count: int) -> None:
            if bar.n + count > bar.total:
                bar.total = bar.n + count
            bar.update(count)

        yield advance
