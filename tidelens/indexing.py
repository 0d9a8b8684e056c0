"""A maintainer as it is wired: snapshots, rebuilds, and the log that it follows."""

from collections.abc import Mapping

from contracts.metrics import Metrics
from contracts.partitioning import partitioner
from contracts.ports import BlobStore, Clock, EventLog
from contracts.settings import Settings
from contracts.space import Space
from contracts.topics import Names, Target
from index_store.index import Index
from index_store.rebuild import Rebuilder
from index_store.searcher import AppliedFeed, LocalSearcher
from index_store.snapshots import Snapshots
from index_store.spill import Spill
from streams.choosing import RETENTION_MIN_S
from streams.keeping import SnapshotKeeper
from streams.maintainer import Maintainer


def make_maintainer(
    settings: Settings,
    event_log: EventLog,
    space: Space,
    replica: str,
    store: BlobStore,
    searcher: LocalSearcher,
    feed: AppliedFeed,
    metrics: Metrics,
    clock: Clock,
    *,
    retention_min_s: float = RETENTION_MIN_S,
) -> Maintainer:
    """Of one space; `replica` is the only one that writes below its own prefix."""
    names = Names(settings.topic_prefix, space.name)
    prefix = f"{space.name}/{settings.shard}/{replica}/"
    spill = Spill(settings.data / "segments" / prefix)
    snapshots = Snapshots(store, prefix, spill, kept=settings.snapshots_kept)
    rebuilder = Rebuilder(
        spill,
        kind=settings.index_kind,
        scanned_rows=settings.scanned_rows_max,
        threads=settings.rebuild_threads,
        recent=searcher.recent,
    )

    def new_index(partitions: Mapping[Target, int], topic_ids: Mapping[str, str]) -> Index:
        return Index(
            space, names, partitions, topic_ids, partition_of=partitioner(settings.partitioner)
        )

    keeper = SnapshotKeeper(
        snapshots,
        metrics,
        clock,
        every_s=settings.snapshot_every_s,
        every_records=settings.snapshot_every_records,
        refresh_s=settings.snapshot_refresh_s,
    )
    return Maintainer(
        event_log,
        names,
        names.index_group(settings.shard, replica),
        new_index,
        searcher,
        feed,
        keeper,
        rebuilder,
        metrics,
        clock,
        batch_records=settings.index_batch_records,
        wait_ms=settings.index_wait_ms,
        stale_after_s=settings.stale_after_s,
        retention_min_s=retention_min_s,
    )
