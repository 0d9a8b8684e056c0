"""The parts that `create` and `compare` share: the node they ask, and the report they print."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tidelens.cli.base.options import NamedPath, Option
from tidelens.cli.base.terminal import say
from tidelens.ingest.text_files import read_lines

if TYPE_CHECKING:
    from contracts.events.control_record import SpaceRef
    from tidelens.client import Client
    from tidelens.migration.collection import OpenCollection
    from tidelens.migration.report import ComparisonReport, Served

_LINES_MAX = 20

queries_option = click.option(
    "--queries",
    cls=Option,
    type=NamedPath(dir_okay=False, exists=True),
    default_text="recent queries of the node",
    help="File of texts to compare answers with, one on each line. If there are few, captions are "
    "added.",
)


@asynccontextmanager
async def open_served(
    collection: "OpenCollection", old: "SpaceRef", *, queries: Path | None, url: str | None
) -> "AsyncIterator[Served]":
    """Open the client of a node that answers in `old`, and read the texts to compare answers with.

    Raises ConfigurationError if the node answers from another collection or space, and DataDirInUse
    while another command makes or compares a space.
    """
    from tidelens.client import Client
    from tidelens.migration.report import Served
    from tidelens.runtime.data_dir import locked

    texts = await asyncio.to_thread(read_lines, queries, "--queries") if queries else []
    async with Client(url or collection.url, timeout_s=None) as client:
        # This comes before the long work, since the comparison after it needs the node's answers.
        await _require_answering(client, collection, old.space)
        if queries is None:
            texts = (await client.get("/v1/admin/queries"))["texts"]
        # Two processes must not write snapshots of the new space at once.
        with locked(collection.settings.data, "rebuild"):
            yield Served(old, client, texts)


async def _require_answering(client: "Client", collection: "OpenCollection", space: str) -> None:
    from contracts.errors import ConfigurationError

    status = await client.get("/v1/status")
    prefix = collection.settings.topic_prefix
    # An older node does not have this member.
    if status.get("topic_prefix", prefix) != prefix:
        raise ConfigurationError(
            f"--url: the node there answers from collection {status['topic_prefix']}, "
            f"but this command acts on {prefix}"
        )
    answering = status["space"]["name"]
    if answering != space:
        raise ConfigurationError(
            f"--url: the node there answers in space {answering}, the active one is {space}"
        )


def show_report(report: "ComparisonReport") -> None:
    """Print the report for people."""
    encoded, answers = report.encoded, report.answers
    if encoded is not None:
        say(
            f"{report.new.space}: {encoded.records} records encoded in {encoded.seconds:.1f} s, "
            f"{encoded.total} in all; snapshot {report.snapshot}"
        )
    body = report.wire()
    for target, count in body["items"].items():
        say(
            f"{target}: {count['old']} items in {report.old.space}, {count['new']} in "
            f"{report.new.space}; overlap@{answers.k} {_share(body['overlap'][target])}, "
            f"recall@{answers.k} {_share(body['recall'][target])}"
        )
    say(f"compared on {answers.queries} queries")
    show_missing(body)


def show_missing(body: dict[str, Any]) -> None:
    """Print the first items that are missing in the new space."""
    for one in body["missing"][:_LINES_MAX]:
        say("missing: {target} {id}: {reason}".format(**one))
    rest = body["missing_count"] - _LINES_MAX
    if rest > 0:
        say(f"missing: {rest} more (--json lists up to 1000)")


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
