"""The parts that `publish` and `delete` share: the event log they write to, and their report."""

import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from contracts.topics import TARGETS
from tidelens.cli.base.terminal import say, say_json

if TYPE_CHECKING:
    from contracts.topics import Names
    from streams.kafka.event_log import KafkaEventLog
    from tidelens.cli.base.collection_choice import CommandContext
    from tidelens.ingest.publisher import PublishResult


@asynccontextmanager
async def open_log(context: "CommandContext") -> "AsyncIterator[tuple[KafkaEventLog, Names]]":
    """Open the event log, once the topics are known to exist.

    A producer would create missing ones with the wrong settings.
    """
    from tidelens.runtime.event_log import open_event_log

    settings, connection, names = context.settings, context.connection(), context.names()
    await connection.partition_counts(map(names.content, TARGETS))
    async with (
        connection.errors_translated(),
        open_event_log(settings, connection) as event_log,
    ):
        yield event_log, names
    # Only now, since a failure is one line.
    context.announce()


def show_report(done: "PublishResult", verb: str, *, as_json: bool) -> None:
    """Print how many items were published or deleted, and end with code 1 if any failed."""
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
