"""`tidelens lag`: the lag of encoders and index nodes, read from Kafka itself."""

import asyncio
from typing import TYPE_CHECKING, Any

import click

from tidelens.cli.base.command import Command, Example
from tidelens.cli.base.options import Option, collection_options, json_option
from tidelens.cli.base.terminal import say, say_json

if TYPE_CHECKING:
    from collections.abc import Sequence

    from contracts.ports.lag import Lag
    from contracts.settings import Settings
    from streams.kafka.connection import KafkaConnection
    from tidelens.cli.base.lag_measurement import LagReport

# At most this many warnings of each type are shown; --json has all.
_SHOWN_MAX = 20
_HEAD = (
    *("GROUP", "TOPIC", "PARTITION", "POSITION", "END", "RECORDS", "SECONDS"),
    *("UNSTABLE", "MEMBERS"),
)


@click.command(
    cls=Command,
    examples=[
        Example("tidelens lag", "Show the lag of every space that is served or being made."),
        Example(
            "tidelens lag --forget tidelens.index.starter-v1.0.b",
            "Delete the consumer groups of a replica that was retired.",
        ),
    ],
)
@click.option(
    "--model",
    cls=Option,
    metavar="MODEL",
    default_text="all spaces that are served or being made",
    help="Show only the space that this model makes.",
)
@click.option(
    "--forget",
    metavar="GROUP",
    help="Delete the consumer groups of a retired index node, or one that a dropped space left "
    "behind. This is refused while the group has members.",
)
@collection_options
@json_option
def lag(model: str | None, forget: str | None, as_json: bool, **collection_given: Any) -> None:
    """Show how far encoders and index nodes are behind.

    The table has a row for each group, topic and partition, with the lag in records and in
    seconds. The lag counts up to the last stable offset (END); an open transaction holds back the
    UNSTABLE records beyond it. Index nodes commit every few seconds, so their figures are that
    old. A node that does not run is `gone` and does not count in `behind`, which is the lag of the
    slowest running node of the active space, or of the space of --model. The exit code says
    whether the lag could be measured, not how large it is.
    """
    from contracts.wire.message_json import wire_lag
    from tidelens.cli.base.collection_choice import command_context

    context = command_context("lag", model=model, **collection_given)
    settings, connection = context.settings, context.connection()
    if forget is not None:
        forgotten = asyncio.run(_forgotten(settings, connection, forget))
        context.announce()
        if as_json:
            say_json({"forgotten": forgotten})
        else:
            say(*(f"forgot group {group}" for group in forgotten))
        return
    measured = asyncio.run(_measured(settings, connection, asked=model is not None))
    context.announce()
    if as_json:
        behind_s = None if measured.behind_s is None else round(measured.behind_s, 3)
        wire = wire_lag(measured.rows, space=measured.space, broker="reachable", behind_s=behind_s)
        partitions = list(wire["partitions"])
        say_json({**wire, "partitions": partitions, "left_over": measured.left_over})
        return
    say(*_table(measured.rows), _behind(measured), *_notes(measured, connection.brokers))


async def _measured(
    settings: "Settings", connection: "KafkaConnection", *, asked: bool
) -> "LagReport":
    from tidelens.cli.base.lag_measurement import measure_lag

    return await measure_lag(settings, connection, asked=asked)


async def _forgotten(settings: "Settings", connection: "KafkaConnection", group: str) -> list[str]:
    from streams.groups.deletion import delete_retired_groups
    from tidelens.cli.base.lag_measurement import spaces_of

    spaces = await spaces_of(settings, connection, asked=False)
    return await delete_retired_groups(connection, settings.topic_prefix, group, spaces=spaces)


def _behind(measured: "LagReport") -> str:
    if measured.behind_s is None:
        return (
            f"behind: unknown, no index node of space {measured.space} runs (one that has just "
            "started needs some seconds to join its group)"
        )
    return f"behind: {measured.behind_s:.1f} s"


def _notes(measured: "LagReport", brokers: str) -> list[str]:
    """Return what an operator should know besides the figures, each with what to do about it."""
    kinds = (
        [
            f"nobody encodes space {space}: group {group} has no members; start `tidelens encode`"
            for space, group in measured.unattended
        ],
        [
            f"held back: {row.topic} partition {row.partition} from offset {row.end} on, for "
            f"{row.unstable_seconds:.0f} s by an open transaction; `kafka-transactions.sh "
            f"--bootstrap-server {brokers} describe-producers --topic {row.topic} --partition "
            f"{row.partition}` names its producer"
            for row in measured.held_back
        ],
        [
            f"shared: {members} nodes run as {group}, or one was killed a moment ago; give each a "
            "TIDELENS_REPLICA of its own"
            for group, members in measured.shared
        ],
        [
            f"gone: {group}; start the node again, or `tidelens lag --forget {group}`"
            for group in measured.gone
        ],
        [
            f"left over from another space: {group}; `tidelens lag --forget {group}`"
            for group in measured.left_over
        ],
    )
    lines = []
    for kind in kinds:
        lines += kind[:_SHOWN_MAX]
        if len(kind) > _SHOWN_MAX:
            lines.append(f"and {len(kind) - _SHOWN_MAX} more like this")
    return lines


def _table(rows: "Sequence[Lag]") -> list[str]:
    """Return aligned columns, names to the left and numbers to the right."""
    table: list[tuple[str, ...]] = [_HEAD]
    for row in rows:
        numbers = (row.partition, row.position, row.end, row.records)
        members = "gone" if row.gone else "?" if row.members is None else str(row.members)
        seconds = f"{row.seconds:.1f}"
        table.append(
            (row.group, row.topic, *map(str, numbers), seconds, str(row.unstable), members)
        )
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    return [
        "  ".join(
            cell.ljust(width) if place < 2 else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(line, widths, strict=True))
        )
        for line in table
    ]
