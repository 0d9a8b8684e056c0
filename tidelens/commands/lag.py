"""`tidelens lag`: how far encoders and index nodes are behind, asked of Kafka itself."""

import asyncio
from dataclasses import asdict
from typing import TYPE_CHECKING

import click
import orjson

from tidelens.options import brokers_option, json_option, model_option, topic_prefix_option

if TYPE_CHECKING:
    from contracts.ports import Lag


@click.command()
@brokers_option
@topic_prefix_option
@model_option
@json_option
def lag(brokers: str | None, topic_prefix: str | None, model: str | None, as_json: bool) -> None:
    """Show the lag per group, topic and partition, in records and in seconds.

    Against the last stable offset. Index nodes commit every few seconds, so theirs is that old.
    """
    from consumers.encoders import space_of
    from contracts import settings as settings_module
    from contracts.topics import Names
    from streams.connect import Connection
    from streams.lag import KafkaLag
    from tidelens import logs
    from tidelens.clock import SystemClock
    from tidelens.runtime import brokers_of

    settings = settings_module.load(brokers=brokers, topic_prefix=topic_prefix, model=model)
    logs.configure(settings.log_format, "lag")
    names = Names(settings.topic_prefix, space_of(settings.model).name)
    connection = Connection(brokers_of(settings), settings_module.load_kafka())

    async def run() -> "tuple[list[Lag], float]":
        source = KafkaLag(connection, names, None, SystemClock())
        await source.start()
        try:
            rows = await source.lag()
            return rows, source.behind_s(rows)
        finally:
            await source.stop()

    rows, behind_s = asyncio.run(run())
    if as_json:
        click.echo(orjson.dumps({"lag": [asdict(row) for row in rows], "behind_s": behind_s}))
        return
    click.echo("\n".join(_table(rows)))
    click.echo(f"behind: {behind_s:.1f} s")


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
