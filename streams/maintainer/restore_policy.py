"""The rule that decides from which snapshot a start may begin.

A snapshot is refused if tombstones after it may be lost, or if a start would prefer another one.
"""

from contracts.errors import SnapshotRefused
from index_store.index import Index
from index_store.snapshot import manifest as manifests
from index_store.snapshot.store import SnapshotStore
from streams.topics.retention import missed_deletes


async def require_restorable(
    snapshots: SnapshotStore, name: str, index: Index, *, now: float, retention_s: float
) -> None:
    """Let the next start begin from `name` (REPLICA/NAME), a snapshot of this replica.

    `index` has the shape of the log as it is now. Raises SnapshotRefused if a start would not use
    it.
    """
    replica, _, own = name.rpartition("/")
    manifest = await snapshots.manifest(name)
    manifests.require_same_log(manifest, index)
    missed = missed_deletes(manifests.caught_up_at(manifest), now, retention_s)
    if missed is not None:
        raise SnapshotRefused(f"{name}: {missed}; a start would replay from the beginning")
    for other in await snapshots.list():
        elsewhere, _, written = other.rpartition("/")
        # Its pointer names its newest, and the newest that a pointer names is restored first.
        if elsewhere != replica and written > own:
            raise SnapshotRefused(f"{name}: a start would prefer the newer {other}")
    await snapshots.point_to(own)
