"""The index maintainer: the loop from the embeddings topics into the index.

Bulk replay and live tail are this one loop. The index's state holds its own offsets; a start means
restore a snapshot and seek to them, and commits to the group are for dashboards only.
"""

import asyncio
from collections.abc import Callable, Iterator, Mapping, Sequence
from time import perf_counter

import structlog
from aiokafka.errors import KafkaError

from contracts import fault_points
from contracts.errors import (
    BrokerAway,
    LogChanged,
    NotReady,
    RebuildFailed,
    RejectedRecord,
    SnapshotFailed,
    TidelensError,
)
from contracts.events.dead_letter import dead_letter_record
from contracts.events.record import Fetched, OutRecord, Record, TopicPartition
from contracts.metrics import Metrics
from contracts.ports.clock import Clock
from contracts.ports.event_log import EventLog, LogReader
from contracts.topics import TARGETS, Names, Target
from index_store.index import Index
from index_store.merge.policy import MERGE_ALL, MergePlan
from index_store.merge.run import MergeResult, MergeRunner
from index_store.search.searcher import AppliedFeed, LocalSearcher
from streams.maintainer.snapshot_schedule import SnapshotSchedule
from streams.topics.identity import PeriodicIdentityCheck
from streams.topics.retention import RETENTION_MIN_S, missed_deletes
from streams.topics.watch import TopicWatch

log = structlog.get_logger(__name__)

# About 2 ms of applying: what a search on the same loop may have to wait for.
_SLICE_RECORDS = 256
# Below this a topic keeps nothing that a node could stand for, and none would ever be ready.
_STALE_MIN_S = 60.0
# A rebuild that failed (a full disk) would fail again at once, and costs a process each time.
_REBUILD_AGAIN_S = 60.0
# How often the topics' ids are asked for while records come, and while none do.
_LOOK_S = 2.0
_LOOK_IDLE_S = 10.0
_AGAIN_S = 1.0


class Maintainer:
    """Keeps one node's index. `run` ends only by cancellation or an error to act on.

    `new_index` makes an empty index for the log as it is now: partitions and topic ids.
    """

    def __init__(
        self,
        event_log: EventLog,
        names: Names,
        group: str,
        new_index: Callable[[Mapping[Target, int], Mapping[str, str]], Index],
        searcher: LocalSearcher,
        feed: AppliedFeed,
        keeper: SnapshotSchedule,
        rebuilder: MergeRunner,
        metrics: Metrics,
        clock: Clock,
        *,
        batch_records: int,
        wait_ms: int,
        stale_after_s: float,
        letter_bytes_max: int,
        retention_min_s: float = RETENTION_MIN_S,
    ) -> None:
        self._log = event_log
        self._names = names
        self._group = group
        self._new_index = new_index
        self._searcher = searcher
        self._feed = feed
        self.keeper = keeper
        self._rebuilder = rebuilder
        self._metrics = metrics
        self._clock = clock
        self._batch_records = batch_records
        self._wait_ms = wait_ms
        self._stale_after_s = stale_after_s
        self._letter_bytes_max = letter_bytes_max
        self._retention_min_s = retention_min_s
        self._index: Index | None = None
        self._same = PeriodicIdentityCheck(event_log, {})
        self._misplaced = 0
        self.watch = TopicWatch(event_log, names, metrics, lambda: self._misplaced)
        self._rebuild_again_at = 0.0
        self._stale_s = stale_after_s
        self._ready_at: dict[TopicPartition, int] = {}
        self._letters_from: dict[TopicPartition, int] = {}
        self._committed: dict[TopicPartition, int] = {}
        self.retention_s = float("inf")
        """For how long tombstones stay in the embeddings topics."""

    @property
    def index(self) -> Index | None:
        """None until the first start has read the log's shape."""
        return self._index

    async def run(self) -> None:
        """Restore, tail, and start over from the beginning when the log is not the one we knew."""
        restore = True
        while True:
            try:
                await self._start(restore=restore)
                await self._tail()
            except LogChanged as changed:
                log.warning("rebuilding the index from the log", reason=str(changed))
                self._searcher.set_not_ready("rebuilding: " + str(changed))
                # A snapshot whose offsets the log no longer has would lead straight back here.
                restore = False
            except (KafkaError, TidelensError, OSError) as error:
                # A first start fails where only an operator can help, and waits for a broker.
                if self._index is None and not isinstance(error, BrokerAway):
                    raise
                # A topic is deleted and not made again yet, or a broker is away.
                log.warning("starting the index again", reason=str(error))
                self._searcher.set_not_ready(f"starting again: {error}")
                await asyncio.sleep(_AGAIN_S)

    async def _start(self, *, restore: bool) -> None:
        topics = [self._names.embeddings(target) for target in TARGETS]
        kept_s = await self._log.delete_retention_s(topics)
        self.retention_s = max(self._retention_min_s, kept_s)
        lag_s = max(_STALE_MIN_S, await self._log.compaction_lag_s(topics))
        self._stale_s = min(self._stale_after_s, lag_s)
        ids = await self._log.topic_ids(topics)
        self._same = PeriodicIdentityCheck(self._log, ids)
        counts = await self._log.partition_counts(topics)
        partitions: dict[Target, int] = {t: counts[self._names.embeddings(t)] for t in TARGETS}
        index = self._new_index(partitions, ids)
        if restore:
            index = await self._restored(index) or index
            await self._rebuilder.place_on_device(index)
        self._index = index
        self._searcher.serve(index)
        self._count_items(index)
        for partition in index.positions:
            # An empty state that starts to read now will see every delete from now on.
            if partition not in index.caught_up_at:
                index.mark_caught_up(partition, self._clock.now())
        self.keeper.start_from(index)
        # Commits of another index say nothing about this one.
        self._committed = {}
        committed = await self._log.committed(self._group)
        self._letters_from = {tp: committed.get(tp, 0) for tp in index.positions}
        log.info("index starts", items={t: index.count(t) for t in TARGETS}, restored=restore)

    async def _restored(self, empty: Index) -> Index | None:
        index = await self.keeper.restore(empty)
        if index is not None:
            missed = missed_deletes(index.caught_up_at, self._clock.now(), self.retention_s)
            if missed is not None:
                log.warning("snapshot refused: replaying from the beginning", reason=missed)
                return None
        return index

    def _require_no_missed_deletes(self, index: Index, fetched: Fetched) -> None:
        """Judged by what had been seen before: what came now may follow deletes that are gone.

        Only where something came: a broker that is away for long is waited for all the same.
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

    async def _tail(self) -> None:
        assert self._index is not None
        start = {tp: position or None for tp, position in self._index.positions.items()}
        reader = await self._log.tail(start)
        try:
            # Ready once everything that was stable at the start has been passed (invariant 8).
            self._ready_at = await reader.stable_offsets()
            while True:
                await self._step(reader)
        finally:
            await reader.close()

    async def _step(self, reader: LogReader) -> None:
        assert self._index is not None
        fetched = await reader.fetch(records_max=self._batch_records, timeout_ms=self._wait_ms)
        # Checked before anything is applied: a node that stood still may read another topic by now.
        await self._same.require(every_s=_LOOK_S if fetched.records else _LOOK_IDLE_S)
        self._require_no_missed_deletes(self._index, fetched)
        for piece in split_fetched(fetched, _SLICE_RECORDS):
            await self._apply(piece)
            # Searches and sockets get their turn between slices.
            await asyncio.sleep(0)
        for partition, at in fetched.caught_up_at.items():
            self._index.mark_caught_up(partition, at)
        self._judge_readiness()

    async def _apply(self, piece: Fetched) -> None:
        index = self._index
        assert index is not None
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
            # What is replayed was searchable before: its age says nothing of our latency.
            for appended_ms in index.last_appended_ms if self._searcher.is_ready else ():
                self._metrics.stage_seconds.labels("searchable").observe(
                    max(0.0, now - appended_ms / 1000)
                )
            self._count_items(index)
        if applied:
            self._feed.publish(applied)
        for record, error in index.rejected:
            await self._reject(record, error)

    def _count_items(self, index: Index) -> None:
        for target in TARGETS:
            self._metrics.items.labels(target).set(index.count(target))

    async def _reject(self, record: Record, error: TidelensError) -> None:
        """Dead-letter an unreadable embedding once: not again on every replay of the topic."""
        partition = TopicPartition(record.topic, record.partition)
        code = error.code if isinstance(error, RejectedRecord) else "wrong_space"
        self._metrics.dead_letters.labels("index", code).inc()
        log.warning(
            "unreadable embedding",
            item=(record.key or b"").decode("utf-8", "replace"),
            topic=record.topic,
            partition=record.partition,
            offset=record.offset,
            reason=code,
            detail=str(error),
        )
        if record.offset < self._letters_from.get(partition, 0):
            return
        rejection = error if isinstance(error, RejectedRecord) else RejectedRecord(code, str(error))
        letter: OutRecord = dead_letter_record(
            self._names.dead_letters,
            record,
            rejection,
            stage="index",
            space=self._names.space,
            attempts=1,
            bytes_max=self._letter_bytes_max,
        )
        await self._log.publish([letter])

    def _judge_readiness(self) -> None:
        index = self._index
        assert index is not None
        behind = [
            partition
            for partition, end in self._ready_at.items()
            if index.positions[partition] < end
        ]
        if behind:
            self._searcher.set_not_ready(
                f"replaying: {len(behind)} partitions are not caught up yet"
            )
            return
        oldest = min(index.caught_up_at.values(), default=None)
        if oldest is not None and self._clock.now() - oldest > self._stale_s:
            self._searcher.set_not_ready(
                f"caught up last {self._clock.now() - oldest:.0f} s ago, limit "
                f"{self._stale_s:.0f} s (min.compaction.lag.ms, TIDELENS_STALE_AFTER_S)"
            )
            return
        self._searcher.set_ready()

    async def commit(self) -> None:
        """Publish the positions to the node's group, so that Kafka's own tools show the lag."""
        if self._index is None or self._index.positions == self._committed:
            return
        positions = dict(self._index.positions)
        await self._log.commit(self._group, positions)
        self._committed = positions
        fault_points.reach("index.committed")

    async def check_committed(self) -> None:
        """Commit again where the group has other offsets than those committed last.

        Somebody may have reset them, and the broker forgets them a week after the last commit. An
        idle node commits nothing more, so other processes would see the whole log as its lag.
        """
        last = self._committed
        found = await self._log.committed(self._group)
        # A commit made in between is newer than what was found.
        if last is self._committed and any(found.get(tp) != at for tp, at in last.items()):
            log.warning("the group's offsets were changed or have expired: committing them again")
            self._committed = {}
            await self.commit()

    async def snapshot(self) -> None:
        """Write one if anything changed, as at a stop."""
        if self._index is not None and self.keeper.changed(self._index):
            await self._write_snapshot(self._index)

    async def snapshot_if_due(self) -> None:
        """Write one when the last is old, much was applied since, or the store has lost it."""
        if self._index is None:
            return
        if self.keeper.due(self._index) or await self.keeper.has_lost_blobs():
            await self._write_snapshot(self._index)

    async def _write_snapshot(self, index: Index) -> None:
        try:
            await self.keeper.write(index)
        except SnapshotFailed as error:
            log.error("snapshot failed; searching goes on", error=str(error))

    async def merge_all(self, targets: Sequence[Target] = TARGETS) -> list[MergeResult]:
        """Build the sealed segments of `targets` anew. Raises NotReady, RebuildFailed."""
        index = self._index
        if index is None:
            raise NotReady("this node has no index yet")
        return [await self._rebuilt(index, target, MERGE_ALL) for target in targets]

    async def merge_if_due(self) -> None:
        """Where many rows are without an index, or dead; not while replaying, more is to come."""
        await self._rebuild_where(self._rebuilder.due_merge)

    async def merge_growing_if_due(self) -> None:
        """The same of rows that grow, which does not wait for a large rebuild to end."""
        await self._rebuild_where(self._rebuilder.due_growing_merge)

    async def _rebuild_where(self, due: Callable[[Index, Target], MergePlan | None]) -> None:
        index = self._index
        if index is None or not self._searcher.is_ready:
            return
        for target in TARGETS:
            if self._clock.now() < self._rebuild_again_at:
                return
            plan = due(index, target)
            if plan is not None:
                try:
                    await self._rebuilt(index, target, plan)
                except RebuildFailed as error:
                    log.error("rebuild failed; searching goes on", error=str(error))
                    self._rebuild_again_at = self._clock.now() + _REBUILD_AGAIN_S

    async def check_topics(self) -> None:
        """Report topics that have changed since they were made."""
        await self.watch.check()

    async def audit(self) -> None:
        """Ask a late query of each target again, exactly, and report the recall.

        One that cannot be asked is skipped, whatever the reason: the audit only looks on.
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

    async def _rebuilt(self, index: Index, target: Target, plan: MergePlan) -> MergeResult:
        try:
            done = await self._rebuilder.run(index, target, plan)
        except RebuildFailed:
            self._metrics.rebuilds.labels(target, "failed").inc()
            raise
        finally:
            # Not of an index that is no longer served: its files are none that are needed.
            if index is self._index:
                await self.keeper.tidy(index)
        self._metrics.rebuilds.labels(target, "done").inc()
        self._metrics.rebuild_seconds.labels(target).set(done.seconds)
        return done


def split_fetched(fetched: Fetched, records_max: int) -> Iterator[Fetched]:
    """`fetched` in pieces of at most `records_max` records; the last has the final positions.

    Each piece leaves a true state: its positions are those right after its records.
    """
    for partition, records in fetched.records.items():
        for start in range(0, len(records), records_max):
            piece = records[start : start + records_max]
            yield Fetched({partition: piece}, {partition: piece[-1].offset + 1})
    yield Fetched({}, fetched.positions)
