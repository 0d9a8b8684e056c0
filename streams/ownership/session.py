"""One session of an encoder: the leases, writers and readers of one assignment of partitions.

A session is thrown away whole, both when partitions are revoked and when a producer is fenced.
Nothing of it is used again, so nothing stale can be written through it.

    | state    | step    | next state | what the session does                                   |
    |----------|---------|------------|---------------------------------------------------------|
    | OPENING  | open    | SERVING    | fences former owners; commits missed tombstones only    |
    | SERVING  | drain   | DRAINING   | fetches, claims and commits                             |
    | DRAINING | drain   | DRAINING   | commits what was claimed, and fetches nothing more      |
    | any      | abandon | ENDED      | nothing; all clients are closed, or will be very soon   |

Any other step raises WrongStep. A fetch that comes late returns no claims.
"""

import asyncio
from collections.abc import Awaitable, Collection, Mapping, Sequence
from enum import Enum, auto

import structlog

from contracts import fault_points
from contracts.errors import LogChanged, TopicMismatch
from contracts.events.record import Fetched, OutRecord, TopicPartition
from contracts.ports.ownership import Lease, RecordClaim
from contracts.topics import TARGETS
from contracts.wrong_step import require_state
from streams.kafka.client_lifecycle import run_to_completion, start_all
from streams.kafka.log_reader import KafkaLogReader
from streams.ownership.caught_up import CaughtUpTimes, now_ms
from streams.ownership.claim_progress import ClaimProgress
from streams.ownership.commit_metadata import TopicPair, commit_request
from streams.ownership.options import OwnershipOptions
from streams.ownership.reconcile import tombstones_for_missed_deletes
from streams.ownership.start_offsets import StartPosition, StartRequest, find_start_positions
from streams.ownership.transaction import TransactionWriter
from streams.topics.admin import delete_retention_s, find_topics
from streams.topics.identity import ABSENT, TopicIdClient, TopicIdentityCheck
from streams.topics.partition_counts import PartitionCounts, fitting_count

log = structlog.get_logger(__name__)


class SessionState(Enum):
    """The states of a session; the table above says what each of them allows."""

    OPENING = auto()
    SERVING = auto()
    DRAINING = auto()
    ENDED = auto()


class OwnershipSession:
    """The leases of one assignment, a fenced producer for each, and readers at their offsets.

    Each topic has a reader of its own, so that a lane that waits for captions does not delay
    pictures.
    """

    def __init__(
        self,
        options: OwnershipOptions,
        partitions: frozenset[TopicPartition],
        counts: PartitionCounts,
    ) -> None:
        self._options = options
        self._assigned = partitions
        self._counts = counts
        self._state = SessionState.OPENING
        self.leases: dict[TopicPartition, Lease] = {}
        self._writers: dict[TopicPartition, TransactionWriter] = {}
        self._readers: dict[str, KafkaLogReader] = {}
        self._topic_client = TopicIdClient(options.connection)
        self._identity = TopicIdentityCheck(self._topic_client, {})
        self._progress = ClaimProgress({})
        self._caught_up = CaughtUpTimes(float("inf"))
        self._committing: set[asyncio.Timeout] = set()

    async def open(self) -> None:
        """Take the partitions over and start at the offsets that the group has committed.

        Former owners are fenced before the offsets are read (invariant 2). Missed tombstones are
        written before anything is read (invariant 7).
        """
        self._require(SessionState.OPENING)
        await self._take_leases()
        if self.leases:
            await self._fence()
            await self._read_from(await self._find_starts())
        self._require(SessionState.OPENING)
        self._state = SessionState.SERVING

    async def _take_leases(self) -> None:
        """Take leases of the partitions that the topics were created with, if the topics fit.

        A target whose topics do not fit, or are missing, does not keep the other one from being
        encoded: it is checked again once its topics have changed.
        """
        names = self._options.names
        topics = [f(target) for f in (names.content, names.embeddings) for target in TARGETS]
        found = await find_topics(self._options.connection, topics)
        recorded = await self._counts.recorded(found)
        self._identity = TopicIdentityCheck(
            self._topic_client,
            {topic: found[topic].id if topic in found else ABSENT for topic in topics},
        )
        for target in TARGETS:
            own = sorted(p for p in self._assigned if p.topic == names.content(target))
            if not own:
                continue
            try:
                count = fitting_count(names, target, found, recorded)
            except TopicMismatch as error:
                log.error("topics do not fit; only the others are encoded", reason=str(error))
                continue
            topic_id = found[names.content(target)].id
            self.leases |= {p: Lease(p, topic_id, count) for p in own if p.partition < count}

    async def _fence(self) -> None:
        """Start the producers, which initialises their ids: no former owner can commit any more."""
        self._writers = {p: TransactionWriter(self._options, p) for p in sorted(self.leases)}
        fault_points.reach("takeover.fencing")
        await start_all([writer.producer for writer in self._writers.values()])
        fault_points.reach("takeover.fenced")

    async def _find_starts(self) -> Mapping[TopicPartition, StartPosition]:
        """Read what the group has committed, which nobody else changes any more."""
        options = self._options
        return await find_start_positions(
            options.connection,
            options.group,
            {p: StartRequest(options.embeddings_of(p), self._pair(p)) for p in self._writers},
        )

    async def _read_from(self, starts: Mapping[TopicPartition, StartPosition]) -> None:
        """Open readers at the start positions, and write the tombstones that were missed."""
        topics = {partition.topic for partition in starts}
        for topic in topics:
            offsets = {p: start.offset for p, start in starts.items() if p.topic == topic}
            self._readers[topic] = await KafkaLogReader.open(self._options.connection, offsets)
        self._progress = ClaimProgress({p: start.offset for p, start in starts.items()})
        kept_s = await delete_retention_s(self._options.connection, topics)
        self._caught_up = CaughtUpTimes(max(self._options.retention_min_s, kept_s))
        # Before anything is read. In a re-encode that takes longer than tombstones are kept, this
        # happens again on its way.
        for partition, start in starts.items():
            if start.caught_up_ms is not None:
                self._caught_up.set(partition, start.caught_up_ms)
            if self._caught_up.is_too_old(partition):
                await self._write_missed_tombstones(partition, start)

    async def fetch(
        self,
        topic: str,
        *,
        records_max: int,
        timeout_ms: int,
        without: Collection[TopicPartition],
    ) -> list[RecordClaim]:
        """Claim the next records of a topic. Raises LogChanged if deletes may have been missed."""
        self._identity.require()
        reader = self._readers.get(topic)
        if reader is None or self._state is not SessionState.SERVING:
            await asyncio.sleep(timeout_ms / 1000)
            return []
        fetched = await reader.fetch(
            records_max=records_max, timeout_ms=timeout_ms, without=without
        )
        # Decided by what had been seen before: what came now may follow deletes that are gone.
        if any(self._caught_up.is_too_old(p) for p in self.leases if p.topic == topic):
            raise LogChanged("not caught up for longer than delete.retention.ms")
        for partition, asked_s in fetched.caught_up_at.items():
            self._caught_up.set(partition, int(asked_s * 1000))
        return self._claims(fetched)

    def _claims(self, fetched: Fetched) -> list[RecordClaim]:
        # A position may move past transaction markers alone: then only the offset is written.
        return [
            RecordClaim(lease, fetched.records.get(partition, []), position)
            for partition, position in fetched.positions.items()
            if (lease := self.leases.get(partition)) is not None
            and self._progress.claim(partition, position)
        ]

    async def commit(self, claim: RecordClaim, outputs: Sequence[OutRecord]) -> None:
        """Write the outputs and the offset of a claim in one transaction.

        Raises TimeoutError after the transaction's time, and when the session is abandoned.
        """
        self._require(SessionState.OPENING, SessionState.SERVING, SessionState.DRAINING)
        partition = claim.lease.partition
        offset = commit_request(
            claim.next_position, self._pair(partition), self._caught_up.get(partition)
        )
        async with asyncio.timeout(self._options.transaction_timeout_ms / 1000) as bound:
            self._committing.add(bound)
            try:
                await self._writers[partition].write(outputs, offset, self._identity)
            finally:
                self._committing.remove(bound)
        self._progress.commit(partition, claim.next_position)

    async def drain(self) -> None:
        """Fetch nothing more, and wait until all that was claimed is committed."""
        self._require(SessionState.SERVING, SessionState.DRAINING)
        self._state = SessionState.DRAINING
        await self._progress.wait_until_drained()

    def end_leases(self) -> None:
        """End the leases at once, so that no claim of this session can be committed any more."""
        self.leases.clear()

    async def abandon(self) -> None:
        """Close everything within a bound; a fenced producer may never flush."""
        self._state = SessionState.ENDED
        await run_to_completion(self._abandon())

    async def _abandon(self) -> None:
        self.end_leases()
        writers, self._writers = list(self._writers.values()), {}
        readers, self._readers = list(self._readers.values()), {}
        closing: list[Awaitable[object]] = [writer.close() for writer in writers]
        closing += [reader.close() for reader in readers]
        closing += [self._identity.close(), self._topic_client.close()]
        await asyncio.gather(*closing)
        # A closed producer never answers, so end the commits that still wait for one.
        for bound in self._committing:
            if not bound.expired():
                bound.reschedule(0)

    async def _write_missed_tombstones(
        self, partition: TopicPartition, start: StartPosition
    ) -> None:
        """Delete from the embeddings what the content no longer has.

        No record of this partition is being encoded now, so no vector of a deleted item can follow
        its tombstone.
        """
        began_ms = now_ms()
        tombstones = await tombstones_for_missed_deletes(
            self._options.connection,
            partition,
            self._options.embeddings_of(partition),
            self._identity.ids[partition.topic],
        )
        self._caught_up.set(partition, began_ms)
        if tombstones:
            log.warning("reconciling", partition=partition.partition, tombstones=len(tombstones))
        # A committed offset that the log does not have must not stay: the log may grow past it.
        if tombstones or not start.is_first:
            await self.commit(RecordClaim(self.leases[partition], [], start.offset), tombstones)

    def _pair(self, partition: TopicPartition) -> TopicPair:
        ids = self._identity.ids
        return TopicPair(ids[partition.topic], ids[self._options.embeddings_of(partition).topic])

    def _require(self, *states: SessionState) -> None:
        require_state("ownership session", self._state, *states)
