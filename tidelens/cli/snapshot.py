"""`tidelens snapshot`: write, list, verify and restore snapshots of an index."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from contracts.settings import Settings
from contracts.space import Space
from tidelens.cli.base.command import Argument, Example, Group
from tidelens.cli.base.options import (
    Option,
    collection_options,
    in_order,
    json_option,
    node_options,
    snapshots_option,
    url_option,
)
from tidelens.cli.base.terminal import say, say_json

if TYPE_CHECKING:
    from contracts.ports.blob_store import BlobStore
    from index_store.index import Index
    from index_store.snapshot.store import SnapshotStore
    from streams.kafka.connection import KafkaConnection
    from tidelens.cli.base.collection_choice import CommandContext

_shard_options = in_order(
    click.option(
        "--model",
        cls=Option,
        metavar="MODEL",
        default_text="the active space",
        help="Use the snapshots of the space that this model makes.",
    ),
    snapshots_option,
    collection_options,
    json_option,
)


@click.group(
    cls=Group,
    examples=[
        Example("tidelens snapshot create", "Let the running node write a snapshot now."),
        Example("tidelens snapshot list", "Show the snapshots that a node can start from."),
    ],
)
def snapshot() -> None:
    """Write, list, verify and restore snapshots of the index."""


@snapshot.command(
    examples=[
        Example("tidelens snapshot create", "Let the running node write a snapshot."),
        Example(
            "tidelens snapshot create --url http://127.0.0.1:8081",
            "Let another node write one.",
        ),
    ]
)
@node_options
@json_option
def create(url: str | None, data: Path | None, as_json: bool) -> None:
    """Let the running node write a snapshot now."""
    from tidelens.cli.base.collection_choice import node_context

    made = node_context(url, data).ask(lambda client: client.post("/v1/admin/snapshot"))
    if as_json:
        say_json(made)
    else:
        say(made["name"])


@snapshot.command(
    "list",
    examples=[
        Example("tidelens snapshot list", "Show the snapshots of the active space."),
        Example(
            "tidelens snapshot list --snapshots s3://bucket/prefix --json",
            "Show those in a bucket, for a program.",
        ),
    ],
)
@_shard_options
def list_(as_json: bool, **given: Any) -> None:
    """Show the snapshots that a start of a node may use.

    The one that a start tries first is at the top. A star marks a snapshot that a replica's pointer
    names.
    """

    async def run() -> list[dict[str, Any]]:
        async with _opened(given) as shard:
            names = await shard.snapshots.list()
            pointed = await shard.pointed(names)
            return [
                {"name": name, "pointer": name in pointed} | await _described(shard, name)
                for name in names
            ]

    found = asyncio.run(run())
    if as_json:
        say_json(found)
        return
    for one in found:
        row = f"{'*' if one['pointer'] else ' '} {one['name']}  "
        if "refused" in one:
            say(f"{row}refused: {one['refused']}")
        else:
            items = ", ".join(f"{count} {target}" for target, count in one["items"].items())
            say(f"{row}{one['created']}  {items}  {one['bytes'] / 1e6:.1f} MB")


@snapshot.command(
    examples=[
        Example("tidelens snapshot verify", "Verify the snapshot that a start tries first."),
        Example("tidelens snapshot verify a/01795476609074497894", "Verify another one."),
    ]
)
@click.argument(
    "name",
    cls=Argument,
    required=False,
    help="Snapshot, as `list` shows it. The first of the list if it is left out.",
)
@_shard_options
def verify(name: str | None, as_json: bool, **given: Any) -> None:
    """Read a whole snapshot and compute its digest from its rows.

    The command fails if a file is missing or damaged, or if the digest differs.
    """
    from contracts.errors import SnapshotRefused

    async def run() -> str:
        async with _opened(given) as shard:
            wanted = name or next(iter(await shard.snapshots.list()), None)
            if wanted is None:
                raise SnapshotRefused("there is no snapshot")
            await shard.snapshots.verify(wanted, await shard.empty_index())
            return wanted

    verified = asyncio.run(run())
    if as_json:
        say_json({"verified": verified})
    else:
        say(f"{verified}: whole")


@snapshot.command(
    examples=[
        Example(
            "tidelens snapshot restore a/01795476609074497894",
            "Begin from this snapshot at the next start of the node.",
        ),
        Example(
            "tidelens snapshot restore a/01795476609074497894 --data node2",
            "Do the same for the node that runs on another data directory.",
        ),
    ]
)
@click.argument("name", cls=Argument, help="Snapshot, as `list` shows it.")
@url_option
@_shard_options
def restore(name: str, url: str | None, as_json: bool, **given: Any) -> None:
    """Let the next start of the node begin from a snapshot.

    The snapshot must be one of this replica's. If the node runs, it writes no snapshots until its
    restart, since a newer one would be used instead.
    """

    async def run() -> None:
        async with _opened(given) as shard:
            _require_own(name, shard.settings.replica)
            if not await _ask_node(url, shard, name):
                await _choose(shard, name)

    asyncio.run(run())
    advice = f"{name}: restart the node to begin from it"
    if as_json:
        say_json({"pointed_to": name})
    else:
        say(advice)


@dataclass(frozen=True, slots=True)
class _Shard:
    """A shard's snapshots, as the node of this replica sees them, and the log that they are of."""

    context: "CommandContext"
    space: Space
    connection: "KafkaConnection"
    blobs: "BlobStore"
    snapshots: "SnapshotStore"

    @property
    def settings(self) -> Settings:
        return self.context.settings

    async def pointed(self, names: Sequence[str]) -> set[str]:
        """Return those of `names` that the pointers of their replicas name."""
        found = set()
        for replica in {name.partition("/")[0] for name in names}:
            with suppress(KeyError):
                pointer = f"{self.space.name}/{self.settings.shard}/{replica}/pointer"
                name = (await self.blobs.read(pointer)).decode("ascii", "replace")
                found.add(f"{replica}/{name}")
        return found & set(names)

    def embeddings(self) -> list[str]:
        from contracts.topics import TARGETS, Names

        names = Names(self.settings.topic_prefix, self.space.name)
        return [names.embeddings(target) for target in TARGETS]

    async def empty_index(self) -> "Index":
        """Return an index of the log as it is today; a snapshot of another log does not fit."""
        from contracts.partitioner import partitioner
        from contracts.topics import TARGETS, Names
        from index_store.index import Index

        topics = self.embeddings()
        counts = await self.connection.partition_counts(topics)
        return Index(
            self.space,
            Names(self.settings.topic_prefix, self.space.name),
            {target: counts[topic] for target, topic in zip(TARGETS, topics, strict=True)},
            await self.connection.topic_ids(topics),
            partition_of=partitioner(self.settings.partitioner),
        )


@asynccontextmanager
async def _opened(given: dict[str, Any]) -> AsyncIterator[_Shard]:
    """`given` are settings, None where not. Raises SnapshotFailed when the store is away."""
    import tempfile

    from contracts.errors import SnapshotFailed
    from index_store.segment.file_store import SegmentFileStore
    from index_store.snapshot.store import SnapshotStore
    from index_store.storage.open import open_blob_store
    from tidelens.cli.base.collection_choice import command_context

    context = await asyncio.to_thread(command_context, "snapshot", **given)
    settings, connection = context.settings, context.connection()
    space = await _space(settings, connection, asked=given["model"] is not None)
    prefix = f"{space.name}/{settings.shard}/{settings.replica}/"
    with tempfile.TemporaryDirectory(prefix="tidelens-") as folder:
        try:
            async with open_blob_store(settings.snapshots, settings.data / "snapshots") as blobs:
                spill = SegmentFileStore(Path(folder))
                snapshots = SnapshotStore(blobs, prefix, spill, kept=settings.snapshots_kept)
                yield _Shard(context, space, connection, blobs, snapshots)
        except OSError as error:
            raise SnapshotFailed(f"the store of snapshots does not answer: {error}") from error
    context.announce()


async def _space(settings: Settings, connection: "KafkaConnection", *, asked: bool) -> Space:
    from consumers.models import model_space
    from tidelens.cli.base.served_space import active_space_of

    if asked:
        return await asyncio.to_thread(model_space, settings.model)
    return await active_space_of(settings, connection)


def _require_own(name: str, replica: str) -> None:
    from contracts.errors import SnapshotRefused

    if not name.startswith(f"{replica}/"):
        raise SnapshotRefused(
            f"{name}: want one of this replica's, {replica}/NAME; for another replica's node set "
            "TIDELENS_REPLICA"
        )


async def _ask_node(url: str | None, shard: _Shard, name: str) -> bool:
    """Return whether a node of this replica runs; that node then sets its pointer to `name`."""
    from tidelens.client import Client, ServerUnavailable

    async with Client(shard.context.url(url)) as client:
        try:
            status = await client.get("/v1/status")
        except ServerUnavailable:
            return False
        if not await _is_of(status, shard):
            return False
        await client.post("/v1/admin/restore", {"name": name})
        return True


async def _is_of(status: Any, shard: _Shard) -> bool:
    """Return whether a node's /v1/status is that of this shard, replica, space and log."""
    running = (status.get("shard"), status.get("replica"), status["space"]["fingerprint"])
    here = (shard.settings.shard, shard.settings.replica, shard.space.fingerprint.hex())
    if running != here:
        return False
    as_of = status.get("as_of")  # none while it is not ready yet
    return as_of is None or as_of["epoch"] == (await shard.empty_index()).epoch


async def _choose(shard: _Shard, name: str) -> None:
    import time

    from streams.maintainer.restore_policy import require_restorable
    from streams.topics.admin import delete_retention_s
    from streams.topics.retention import RETENTION_MIN_S

    index = await shard.empty_index()
    retention_s = await delete_retention_s(shard.connection, shard.embeddings())
    retention_s = max(RETENTION_MIN_S, retention_s)
    await require_restorable(shard.snapshots, name, index, now=time.time(), retention_s=retention_s)


async def _described(shard: _Shard, name: str) -> dict[str, Any]:
    from contracts.errors import SnapshotRefused

    try:
        manifest = await shard.snapshots.manifest(name)
    except (SnapshotRefused, OSError) as error:
        return {"refused": str(error)}
    created = datetime.fromtimestamp(manifest["created"], UTC)
    blobs = [blob["bytes"] for part in manifest["parts"] for blob in part["blobs"]]
    return {
        "created": created.isoformat(timespec="seconds"),
        "items": manifest["items"],
        "bytes": sum(blobs) + manifest["alive"]["bytes"],
        "digests": manifest["digests"],
    }
