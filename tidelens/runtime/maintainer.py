"""Wire a maintainer to its snapshots, its merges and the log that it follows."""

from collections.abc import Callable, Mapping

from contracts.metrics import Metrics
from contracts.partitioner import partitioner
from contracts.ports.blob_store import BlobStore
from contracts.ports.clock import Clock
from contracts.ports.event_log import EventLog
from contracts.settings import IndexSettings, Settings
from contracts.space import Space
from contracts.topics import Names, Target
from index_store.ann import choice
from index_store.ann.gpu import open_device
from index_store.index import Index
from index_store.merge.run import MergeRunner
from index_store.search.searcher import AppliedFeed, LocalSearcher
from index_store.segment.file_store import SegmentFileStore
from index_store.segment.sealed import SealedSegment
from index_store.snapshot.store import SnapshotStore
from streams.maintainer.maintainer import Maintainer
from streams.maintainer.snapshot_schedule import SnapshotSchedule
from streams.topics.retention import RETENTION_MIN_S


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
    """Make the maintainer of one space.

    Its snapshots and segments are written below a prefix that ends in the name of the `replica`.
    Raises ConfigurationError for an index type that does not fit the space's dimension.
    """
    choice.require_index_type(settings.index_kind, space.dim)
    names = Names(settings.topic_prefix, space.name)
    prefix = f"{space.name}/{settings.shard}/{replica}/"
    spill = SegmentFileStore(settings.data / "segments" / prefix)
    snapshots = SnapshotStore(store, prefix, spill, kept=settings.snapshots_kept)
    merger = MergeRunner(
        spill,
        index_type=settings.index_kind,
        scanned_rows=settings.scanned_rows_max,
        bytes_max=settings.index_mb_max << 20,
        threads=settings.rebuild_threads,
        recent=searcher.recent_vectors,
        place=_placing(settings),
    )

    def new_index(partitions: Mapping[Target, int], topic_ids: Mapping[str, str]) -> Index:
        return Index(
            space, names, partitions, topic_ids, partition_of=partitioner(settings.partitioner)
        )

    snapshot_schedule = SnapshotSchedule(
        snapshots,
        metrics,
        clock,
        every_s=settings.snapshot_every_s,
        every_records=settings.snapshot_every_records,
        refresh_s=settings.snapshot_refresh_s,
        check_s=settings.snapshot_check_s,
    )
    return Maintainer(
        event_log,
        names,
        names.index_group(settings.shard, replica),
        new_index=new_index,
        searcher=searcher,
        feed=feed,
        snapshot_schedule=snapshot_schedule,
        merger=merger,
        metrics=metrics,
        clock=clock,
        batch_records=settings.index_batch_records,
        wait_ms=settings.index_wait_ms,
        stale_after_s=settings.stale_after_s,
        letter_bytes_max=settings.record_bytes_max,  # what the event log's producer takes
        retention_min_s=retention_min_s,
    )


def _placing(settings: IndexSettings) -> Callable[[SealedSegment], object] | None:
    """Return a function that loads a segment onto the GPU, or None without a GPU."""
    device = open_device(settings.gpu_memory_mb)
    if device is None:
        return None
    return lambda segment: device.load_segment(segment, settings.target_recall)
