"""`tidelens publish` and `tidelens delete`: items to the log, from files and by id."""

import asyncio
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from contracts.topics import TARGETS, Target
from tidelens.options import NamedPath, brokers_option, json_option, topic_prefix_option
from tidelens.terminal import say, say_json

if TYPE_CHECKING:
    from contracts.topics import Names
    from streams.log import KafkaLog
    from tidelens.acting import Acting
    from tidelens.publishing import Published


@click.command()
@click.argument("paths", nargs=-1, required=True, type=NamedPath())
@brokers_option
@topic_prefix_option
@json_option
def publish(
    paths: tuple[Path, ...], brokers: str | None, topic_prefix: str | None, as_json: bool
) -> None:
    """Publish pictures, .txt captions, folders of them, and JSON Lines files.

    Pictures are known by their bytes, whatever their names. A JSON line is {"id", "text" or
    "image", "item", "metadata"}; "image" is a path relative to the file. Ids are paths below the
    published folder, so that publishing twice leaves one item. Other files in a folder are left out
    and counted by kind. The exit code is 1 if anything was refused or nothing was published.
    """
    from tidelens.acting import acting
    from tidelens.publishing import entries_of, sources
    from tidelens.publishing import publish as publish_all

    acts = acting("publish", brokers=brokers, topic_prefix=topic_prefix)
    settings = acts.settings
    files = list(sources(paths))

    async def run(advance: Callable[[int], None]) -> "Published":
        async with _opened(acts) as (event_log, names):
            return await publish_all(event_log, names, entries_of(files, settings), advance=advance)

    with _progress(len(files)) as advance:
        done = asyncio.run(run(advance))
    if done.by_reference and not as_json:
        say(
            f"{done.by_reference} pictures above {settings.inline_bytes_max} bytes travel by "
            "reference: encoders read them only below an --allow-root (TIDELENS_ALLOW_ROOTS)",
            err=True,
        )
    _report(done, "published", as_json)


@click.command()
@click.argument("target", type=click.Choice(TARGETS))
@click.argument("ids", nargs=-1, required=True)
@brokers_option
@topic_prefix_option
@json_option
def delete(
    target: Target,
    ids: tuple[str, ...],
    brokers: str | None,
    topic_prefix: str | None,
    as_json: bool,
) -> None:
    """Delete items by TARGET (images or captions) and id."""
    from tidelens.acting import acting
    from tidelens.publishing import delete as delete_all

    acts = acting("delete", brokers=brokers, topic_prefix=topic_prefix)

    async def run() -> "Published":
        async with _opened(acts) as (event_log, names):
            return await delete_all(event_log, names, target, ids)

    _report(asyncio.run(run()), "deleted", as_json)


@asynccontextmanager
async def _opened(acts: "Acting") -> "AsyncIterator[tuple[KafkaLog, Names]]":
    """The event log, once the topics are known to be there: a producer would make them wrongly."""
    from contracts.partitioning import partitioner
    from streams.log import KafkaLog

    settings, connection, names = acts.settings, acts.connection(), acts.names()
    await connection.partition_counts(map(names.content, TARGETS))
    async with (
        connection.errors_translated(),
        KafkaLog.open(
            connection,
            partition_of=partitioner(settings.partitioner),
            record_bytes_max=settings.record_bytes_max,
            prefix=settings.topic_prefix,
        ) as event_log,
    ):
        yield event_log, names
    # Only now, since a failure is one line.
    acts.tell()


@contextmanager
def _progress(total: int) -> Iterator[Callable[[int], None]]:
    """A bar with the rate, on stderr and only on a terminal."""
    from tqdm import tqdm

    # A JSON Lines file is one file and many items, so the total is a lower bound.
    with tqdm(total=total, unit=" items", disable=not sys.stderr.isatty()) as bar:

        def advance(count: int) -> None:
            if bar.n + count > bar.total:
                bar.total = bar.n + count
            bar.update(count)

        yield advance


def _report(done: "Published", verb: str, as_json: bool) -> None:
    if as_json:
        answer = {
            verb: done.records,
            "refused": [
                {"path": refused.where, "code": refused.code, "message": refused.message}
                for refused in done.refused
            ],
            "left_out": dict(sorted(done.left_out.items())),
            "tokens": [token._asdict() for token in done.tokens],
        }
        say_json(answer)
    else:
        say(f"{verb} {done.records}")
        for refused in done.refused:
            say(f"not {verb}: {refused}", err=True)
        if done.left_out:
            kinds = ", ".join(f"{n} {kind}" for kind, n in done.left_out.most_common())
            say(f"left out: {kinds}", err=True)
        elif not done.records and not done.refused:
            say(f"not {verb}: there is nothing there", err=True)
    if done.refused or not done.records:
        sys.exit(1)
