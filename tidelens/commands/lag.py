"""`tidelens lag`: how far encoders and index nodes are behind, asked of Kafka itself."""

import asyncio
from typing import TYPE_CHECKING

import click

from tidelens.options import brokers_option, json_option, model_option, topic_prefix_option
from tidelens.terminal import say, say_json

if TYPE_CHECKING:
    from contracts.ports import Lag
    from contracts.settings import Settings
    from streams.connect import Connection


@click.command()
@brokers_option
@topic_prefix_option
@model_option
@json_option
def lag(brokers: str | None, topic_prefix: str | None, model: str | None, as_json: bool) -> None:
    """Show the lag per group, topic and partition, in records and in seconds.

    Against the last stable offset. Index nodes commit every few seconds, so theirs is that old.
    Without --model: of every space that is served or being made, as /v1/lag answers too; `behind`
    is that of the active space, and of its slowest node.
    """
    from contracts import settings as settings_module
    from contracts.wire import wire_lag
    from streams.connect import Connection
    from tidelens import logs
    from tidelens.runtime import brokers_of

    settings = settings_module.load(brokers=brokers, topic_prefix=topic_prefix, model=model)
    logs.configure(settings.log_format, "lag")
    connection = Connection(brokers_of(settings), settings_module.load_kafka())
    space, rows, behind_s = asyncio.run(_measured(settings, connection, asked=model is not None))
    if as_json:
        wire = wire_lag(rows, space=space, broker="reachable", behind_s=round(behind_s, 3))
        say_json({**wire, "partitions": list(wire["partitions"])})
        return
    say(*_table(rows))
    say(f"behind: {behind_s:.1f} s")


async def _measured(
    settings: "Settings", connection: "Connection", *, asked: bool
) -> "tuple[str, list[Lag], float]":
    """The space asked about, the rows of it and of those beside it, and its seconds behind."""
    from contracts.topics import Names
    from streams.lag import KafkaLag
    from streams.lag_of_spaces import LagOfSpaces
    from tidelens.clock import SystemClock

    spaces = await _spaces(settings, connection, asked=asked)
    own = KafkaLag(connection, Names(settings.topic_prefix, spaces[0]), None, SystemClock())
    source = LagOfSpaces(own, lambda: spaces)
    await source.start()
    try:
        rows = await source.lag()
        return spaces[0], rows, source.behind_s(rows)
    finally:
        await source.stop()


async def _spaces(settings: "Settings", connection: "Connection", *, asked: bool) -> list[str]:
    """The active one first, or the one asked for alone."""
    from consumers.encoders import space_of
    from streams.control import Control
    from tidelens.runtime import model_of
    from tidelens.served import ask_control

    control = Control() if asked else await ask_control(settings, connection)
    if control.active is not None:
        return control.spaces
    model = settings.model if asked else model_of(settings)
    return [(await asyncio.to_thread(space_of, model)).name, *control.spaces]


def _table(rows: "list[Lag]") -> list[str]:
    """Aligned columns: names to the left, numbers to the right."""
    table: list[tuple[str, ...]] = [
        ("GROUP", "TOPIC", "PARTITION", "POSITION", "END", "RECORDS", "SECONDS")
    ]
    for row in rows:
        numbers = (row.partition, row.position, row.end, row.records)
        table.append((row.group, row.topic, *map(str, numbers), f"{row.seconds:.1f}"))
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    return [
        "  ".join(
            cell.ljust(width) if place < 2 else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(line, widths, strict=True))
        )
        for line in table
    ]
