"""`tidelens snapshot`: write, list, verify and restore snapshots of an index."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import orjson

from tidelens.options import (
    brokers_option,
    json_option,
    model_option,
    snapshots_option,
    topic_prefix_option,
    url_option,
)

if TYPE_CHECKING:
    from index_store.index import Index
    from index_store.snapshots import Snapshots

_data_option = click.option(
    "--data", type=click.Path(path_type=Path, file_okay=False), help="Data directory."
)


@click.group()
def snapshot() -> None:
    """Write, list, verify and restore snapshots of the index."""


@snapshot.command()
@url_option
@json_option
def create(url: str | None, as_json: bool) -> None:
    """Let the running node write a snapshot now."""
    from contracts import settings
    from tidelens.client import Client
    from tidelens.runtime import api_of

    async def run() -> Any:
        async with Client(url or api_of(settings.load())) as client:
            return await client.post("/v1/admin/snapshot")

    made = asyncio.run(run())
    click.echo(orjson.dumps(made) if as_json else made["name"])


@snapshot.command("list")
@snapshots_option
@model_option
@_data_option
@json_option
def list_(snapshots: str | None, model: str | None, data: Path | None, as_json: bool) -> None:
    """Snapshots of this shard, the one that a start would try first at the top."""

    async def run() -> list[dict[str, Any]]:
        async with _store(snapshots, model, data) as store:
            return [await _described(store, name) for name in await store.list()]

    found = asyncio.run(run())
    if as_json:
        click.echo(orjson.dumps(found))
        return
    for one in found:
        if "refused" in one:
            click.echo(f"{one['name']}  refused: {one['refused']}")
        else:
            items = ", ".join(f"{count} {target}" for target, count in one["items"].items())
            click.echo(f"{one['name']}  {one['created']}  {items}  {one['bytes'] / 1e6:.1f} MB")


@snapshot.command()
@click.argument("name", required=False)
@snapshots_option
@brokers_option
@topic_prefix_option
@model_option
@_data_option
@json_option
def verify(
    name: str | None,
    snapshots: str | None,
    brokers: str | None,
    topic_prefix: str | None,
    model: str | None,
    data: Path | None,
    as_json: bool,
) -> None:
    """Read NAME (of `list`; else the first) whole, and recompute its digest row by row."""
    from contracts.errors import SnapshotRefused

    async def run() -> str:
        async with _store(snapshots, model, data) as store:
            wanted = name or next(iter(await store.list()), None)
            if wanted is None:
                raise SnapshotRefused("there is no snapshot")
            await store.verify(wanted, await _empty_index(brokers, topic_prefix, model, data))
            return wanted

    verified = asyncio.run(run())
    click.echo(orjson.dumps({"verified": verified}) if as_json else f"{verified}: whole")


@snapshot.command()
@click.argument("name")
@snapshots_option
@model_option
@_data_option
@json_option
def restore(
    name: str, snapshots: str | None, model: str | None, data: Path | None, as_json: bool
) -> None:
    """Let the next start of this replica's node begin from NAME (of `list`)."""

    async def run() -> None:
        async with _store(snapshots, model, data) as store:
            await store.point_to(name.rpartition("/")[2])

    asyncio.run(run())
    told = f"{name}: restart the node to begin from it"
    click.echo(orjson.dumps({"pointed_to": name}) if as_json else told)


@asynccontextmanager
async def _store(
    url: str | None, model: str | None, data: Path | None
) -> "AsyncIterator[Snapshots]":
    """The shard's snapshots, as the node of this replica sees them."""
    import tempfile

    from consumers.encoders import space_of
    from contracts import settings as settings_module
    from index_store.snapshots import Snapshots
    from index_store.spill import Spill
    from index_store.stores import open_blobs

    settings = settings_module.load(snapshots=url, model=model, data=data)
    space = space_of(settings.model).name
    prefix = f"{space}/{settings.shard}/{settings.replica}/"
    with tempfile.TemporaryDirectory(prefix="tidelens-") as folder:
        async with open_blobs(settings.snapshots, settings.data / "snapshots") as blobs:
            yield Snapshots(blobs, prefix, Spill(Path(folder)), kept=settings.snapshots_kept)


async def _empty_index(
    brokers: str | None, topic_prefix: str | None, model: str | None, data: Path | None
) -> "Index":
    """An index of the log as it is today: a snapshot of another log says nothing about it."""
    from consumers.encoders import space_of
    from contracts import settings as settings_module
    from contracts.topics import TARGETS, Names
    from index_store.index import Index
    from streams.connect import Connection
    from tidelens.runtime import brokers_of

    settings = settings_module.load(
        brokers=brokers, topic_prefix=topic_prefix, model=model, data=data
    )
    space = space_of(settings.model)
    names = Names(settings.topic_prefix, space.name)
    connection = Connection(brokers_of(settings), settings_module.load_kafka())
    topics = [names.embeddings(target) for target in TARGETS]
    counts = await connection.partition_counts(topics)
    return Index(
        space,
        names,
        {target: counts[names.embeddings(target)] for target in TARGETS},
        await connection.topic_ids(topics),
    )


async def _described(store: "Snapshots", name: str) -> dict[str, Any]:
    from contracts.errors import SnapshotRefused

    try:
        manifest = await store.manifest(name)
    except SnapshotRefused as error:
        return {"name": name, "refused": str(error)}
    created = datetime.fromtimestamp(manifest["created"], UTC)
    blobs = [blob["bytes"] for part in manifest["parts"] for blob in part["blobs"]]
    return {
        "name": name,
        "created": created.isoformat(timespec="seconds"),
        "items": manifest["items"],
        "bytes": sum(blobs),
        "digests": manifest["digests"],
    }
