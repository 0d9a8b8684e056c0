"""`tidelens lag`: how far encoders and index nodes are behind, asked of Kafka itself."""

import asyncio
from dataclasses import asdict
from typing import TYPE_CHECKING

import click
import orjson

from tidelens.options import brokers_option, json_option, model_option, topic_prefix_option

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
    Without --model: of every space that is served or being made; `behind` is the active one's.
    """
    from contracts import settings as settings_module
    from streams.connect import Connection
    from tidelens import logs
    from tidelens.runtime import brokers_of

    settings = settings_module.load(brokers=brokers, topic_prefix=topic_prefix, model=model)
    logs.configure(settings.log_format, "lag")
    connection = Connection(brokers_of(settings), settings_module.load_kafka())
    rows, behind_s = asyncio.run(_measured(settings, connection, asked=model is not None))
    if as_json:
        click.echo(orjson.dumps({"lag": [asdict(row) for row in rows], "behind_s": behind_s}))
        return
    click.echo("\n".join(_table(rows)))
    click.echo(f"behind: {behind_s:.1f} s")


async def _measured(
    settings: "Settings", connection: "Connection", *, asked: bool
) -> "tuple[list[Lag], float]":
    from contracts.topics import Names
    from streams.lag import KafkaLag
    from tidelens.clock import SystemClock

    found: list[Lag] = []
    behind_s: float | None = None
    for space in await _spaces(settings, connection, asked=asked):
        names = Names(settings.topic_prefix, space)
        source = KafkaLag(connection, names, None, SystemClock())
        await source.start()
        try:
            rows = await source.lag()
            found += rows
            behind_s = source.behind_s(rows) if behind_s is None else behind_s
        finally:
            await source.stop()
    return found, behind_s or 0.0


async def _spaces(settings: "Settings", connection: "Connection", *, asked: bool) -> list[str]:
    """The active one first, or the one asked for alone."""
    from consumers.encoders import space_of
    from streams.control import Control
    from tidelens.runtime import model_of
    from tidelens.served import ask_control

    control = Control() if asked else await ask_control(settings, connection)
    if control.active is None:
        model = settings.model if asked else model_of(settings)
        spaces = [(await asyncio.to_thread(space_of, model)).name]
    else:
        spaces = [ref.space for ref in control.active.served]
    if control.candidate is not None:
        spaces.append(control.candidate.made.space)
    return list(dict.fromkeys(spaces))


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
