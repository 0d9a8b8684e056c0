"""The index maintainer: the loop from the embeddings topics into the index.

Bulk replay and live tail are this one loop. The index's state holds its own offsets: a start
restores a snapshot and seeks to them, and commits to the group are for dashboards only.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from time import perf_counter

import structlog
from aiokafka.errors import KafkaError

from contracts import fault_points
from contracts.errors import (
    BrokerAway,
    LogChanged,
    SnapshotFailed,
    TidelensError,
)
from contracts.events.record import Fetched
from contracts.metrics import Metrics
from contracts.ports.clock import Clock
from contracts.ports.event_log import EventLog, LogReader
from contracts.topics import TARGETS, Names, Target
from index_store.index import Index
from index_store.merge.run import MergeResult, MergeRunner
from index_store.search.searcher import AppliedFeed, LocalSearcher
from streams.maintainer.fetch_slices import split_fetched
from streams.maintainer.group_offsets import GroupOffsets
from streams.maintainer.index_merges import IndexMerges
from streams.maintainer.pauses import MaintainerPauses
from streams.maintainer.readiness import Readiness, stale_limit_s
from streams.maintainer.rejections import Rejections
from streams.maintainer.snapshot_schedule import SnapshotSchedule
from streams.topics.identity import PeriodicIdentityCheck
from streams.topics.retention import RETENTION_MIN_S, missed_deletes
from streams.topics.watch import TopicWatch

log = structlog.get_logger(__name__)

# About 2 ms of applying: what a search on the same loop may have to wait for.
_SLICE_RECORDS = 256
_PAUSES = MaintainerPauses()


class Maintainer:
    """The keeper of one node's index, which follows the embeddings topics of a space.

    `new_index` makes an empty index for the log as it is now, from the partition count of each
    target and the ids of the topics.
    """

    def __init__(
        self,
        event_log: EventLog,
        names: Names,
        group: str,
        *,
        new_index: Callable[[Mapping[Target, int], Mapping[str, str]], Index],
        searcher: LocalSearcher,
        feed: AppliedFeed,
        snapshot_schedule: SnapshotSchedule,
        merger: MergeRunner,
        metrics: Metrics,
        clock: Clock,
        batch_records: int,
        wait_ms: int,
        stale_after_s: float,
        letter_bytes_max: int,
        retention_min_s: float = RETENTION_MIN_S,
        pauses: MaintainerPauses = _PAUSES,
    ) -> None:
        self._log = event_log
        self._names = names
        self._new_index = new_index
        self._searcher = searcher
        self._feed = feed
        self.snapshot_schedule = snapshot_schedule
        self._merger = merger
        self._metrics = metrics
        self._clock = clock
        self._batch_records = batch_records
        self._wait_ms = wait_ms
        self._stale_after_s = stale_after_s
        self._retention_min_s = retention_min_s
        self._pauses = pauses
        self._index: Index | None = None
        self._identity = PeriodicIdentityCheck(event_log, {})
        self._misplaced = 0
        self.watch = TopicWatch(event_log, names, metrics, lambda: self._misplaced)
        self._stale_s = stale_after_s
        self._group_offsets = GroupOffsets(event_log, group)
        self._rejections = Rejections(event_log, names, metrics, letter_bytes_max=letter_bytes_max)
        self._merges = IndexMerges(lambda: self._index, merger, snapshot_schedule, metrics, clock)
        self.retention_s = float("inf")
        """The time in seconds for which tombstones stay in the embeddings topics."""

    @property
    def index(self) -> Index | None:
        """Return the index that is served; None until the first start has read the log's shape."""
        return self._index

    async def run(self) -> None:
        """Restore and follow the log; begin again without a snapshot if the log has changed.

        Without a broker it waits. It raises a KafkaError, TidelensError or OSError only before the
        first index is served, since an operator must act on that; afterwards it starts again.
        """
        restore = True
        while True:
            try:
                await self._tail(await self._start(restore=restore))
            except LogChanged as changed:
                log.warning("rebuilding the index from the log", reason=str(changed))
                self._searcher.set_not_ready("rebuilding: " + str(changed))
                # A snapshot whose offsets the log no longer has would lead straight back here.
                restore = False
            except (KafkaError, TidelensError, OSError) as error:
                # A first start waits for a broker, and fails where only an operator can help.
                if self._index is None and not isinstance(error, BrokerAway):
                    raise
                # A topic was deleted and is not created again yet, or a broker is away.
                log.warning("starting the index again", reason=str(error))
                self._searcher.set_not_ready(f"starting again: {error}")
                await asyncio.sleep(self._pauses.retry_s)

    async def _start(self, *, restore: bool) -> Index:
        """Serve an index of the log as it is now, restored from a snapshot if there is one."""
        topics = [self._names.embeddings(target) for target in TARGETS]
        kept_s = await self._log.delete_retention_s(topics)
        self.retention_s = max(self._retention_min_s, kept_s)
        lag_s = await self._log.compaction_lag_s(topics)
        self._stale_s = stale_limit_s(self._stale_after_s, lag_s)
        ids = await self._log.topic_ids(topics)
        self._identity = PeriodicIdentityCheck(self._log, ids)
        counts = await self._log.partition_counts(topics)
        partitions: dict[Target, int] = {t: counts[self._names.embeddings(t)] for t in TARGETS}
        index = self._new_index(partitions, ids)
        if restore:
            index = await self._restored(index) or index
            await self._merger.place_on_device(index)
        self._index = index
        self._searcher.serve(index)
        self._count_items(index)
        for partition in index.positions:
            # An empty state that starts to read now will see every delete from now on.
            if partition not in index.caught_up_at:
                index.mark_caught_up(partition, self._clock.now())
        self.snapshot_schedule.start_from(index)
        committed = await self._group_offsets.restart()
        self._rejections.letters_from = {tp: committed.get(tp, 0) for tp in index.positions}
        log.info("index starts", items={t: index.count(t) for t in TARGETS}, restored=restore)
        return index

    async def _restored(self, empty: Index) -> Index | None:
        index = await self.snapshot_schedule.restore(empty)
        if index is not None:
            missed = missed_deletes(index.caught_up_at, self._clock.now(), self.retention_s)
            if missed is not None:
                log.warning("snapshot refused: replaying from the beginning", reason=missed)
                return None
        return index

    def _require_no_missed_deletes(self, index: Index, fetched: Fetched) -> None:
        """Raise LogChanged if tombstones may have been compacted away before we read them.

        The decision uses the times before this fetch, since what came now may follow deletes that
        are gone. It concerns only partitions from which something came: a broker that is away for
        long is waited for.
        """
        known = index.caught_up_at
        came = {partition for partition, records in fetched.records.items() if records}
        came |= {
            partition for partition, at in fetched.caught_up_at.items() if at > known[partition]
        }
        seen = {partition: known[partition] for partition in came}
        missed = missed_deletes(seen, self._clock.now(), self.retention_s)
        if missed is not None:
            raise LogChanged(missed)

    async def _tail(self, index: Index) -> None:
        start = {tp: position or None for tp, position in index.positions.items()}
        reader = await self._log.tail(start)
        try:
            readiness = Readiness(await reader.stable_offsets(), self._stale_s)
            while True:
                await self._step(index, reader, readiness)
        finally:
            await reader.close()

    async def _step(self, index: Index, reader: LogReader, readiness: Readiness) -> None:
        fetched = await reader.fetch(records_max=self._batch_records, timeout_ms=self._wait_ms)
        # Checked before anything is applied: after a standstill this may be another topic.
        pauses = self._pauses
        every_s = pauses.check_ids_s if fetched.records else pauses.check_ids_idle_s
        await self._identity.require(every_s=every_s)
        self._require_no_missed_deletes(index, fetched)
        for piece in split_fetched(fetched, _SLICE_RECORDS):
            await self._apply(index, piece)
            # Searches and sockets get their turn between slices.
            await asyncio.sleep(0)
        for partition, at in fetched.caught_up_at.items():
            index.mark_caught_up(partition, at)
        self._show_readiness(index, readiness)

    async def _apply(self, index: Index, piece: Fetched) -> None:
        began, misplaced = perf_counter(), index.misplaced
        applied = index.apply(piece)
        self._metrics.misplaced.inc(index.misplaced - misplaced)
        self._misplaced += index.misplaced - misplaced
        fault_points.reach("index.applied")
        count = sum(len(records) for records in piece.records.values())
        if count:
            self._metrics.apply_seconds.observe(perf_counter() - began)
            now = self._clock.now()
            for partition, records in piece.records.items():
                target = self._names.target_of(partition.topic)
                self._metrics.applied.labels(target).inc(len(records))
            # Replayed records were searchable before: their age says nothing about our latency.
            for appended_ms in index.last_appended_ms if self._searcher.is_ready else ():
                self._metrics.stage_seconds.labels("searchable").observe(
                    max(0.0, now - appended_ms / 1000)
                )
            self._count_items(index)
        if applied:
            self._feed.publish(applied)
        for record, error in index.rejected:
            await self._rejections.add(record, error)

    def _count_items(self, index: Index) -> None:
        for target in TARGETS:
            self._metrics.items.labels(target).set(index.count(target))

    def _show_readiness(self, index: Index, readiness: Readiness) -> None:
        reason = readiness.reason_not_ready(index, self._clock.now())
        if reason is None:
            self._searcher.set_ready()
        else:
            self._searcher.set_not_ready(reason)

    async def commit(self) -> None:
        """Commit the positions to the node's group, so that Kafka's own tools show the lag."""
        if self._index is not None:
            await self._group_offsets.commit(self._index.positions)

    async def check_committed(self) -> None:
        """Commit again if somebody has reset the group's offsets, or if they have expired.

        An idle node commits nothing more, so other processes would see the whole log as its lag.
        """
        if await self._group_offsets.has_changed():
            await self.commit()

    async def snapshot(self) -> None:
        """Write a snapshot if anything has changed, as at a stop."""
        if self._index is not None and self.snapshot_schedule.changed(self._index):
            await self._write_snapshot(self._index)

    async def snapshot_if_due(self) -> None:
        """Write a snapshot if the last is old or lost, or if much was applied since."""
        if self._index is None:
            return
        if self.snapshot_schedule.due(self._index) or await self.snapshot_schedule.has_lost_blobs():
            await self._write_snapshot(self._index)

    async def _write_snapshot(self, index: Index) -> None:
        try:
            await self.snapshot_schedule.write(index)
        except SnapshotFailed as error:
            log.error("snapshot failed; searching goes on", error=str(error))

    async def merge_all(self, targets: Sequence[Target] = TARGETS) -> list[MergeResult]:
        """Merge all segments of each target. Raises NotReady and RebuildFailed."""
        return await self._merges.merge_all(targets)

    async def merge_if_due(self) -> None:
        """Merge segments where that is due; not while replaying, when more rows are to come."""
        if self._searcher.is_ready:
            await self._merges.merge_if_due()

    async def merge_growing_if_due(self) -> None:
        """Merge growing rows where that is due, which does not wait for a large merge to end."""
        if self._searcher.is_ready:
            await self._merges.merge_growing_if_due()

    async def check_topics(self) -> None:
        """Report topics that have changed since they were made."""
        await self.watch.check()

    async def audit(self) -> None:
        """Run a recent query of each target again, exactly, and report the recall.

        A query that cannot be run is skipped, whatever the reason: an audit must not disturb.
        """
        for target in TARGETS:
            try:
                recall = await self._searcher.audit(target)
            except Exception as error:
                self._metrics.audits_skipped.labels(target).inc()
                log.warning("query not audited", target=target, reason=repr(error))
                continue
            if recall is not None:
                self._metrics.audited_recall.labels(target).observe(recall)
