"""An encoder's hold on its partitions: invariant 2, built on aiokafka.

Why it is not a plain consumer loop: aiokafka has no group-generation fencing for transactions, so
a late writer behind a rebalance could append an older vector after a newer one, and compaction
would keep the older. Therefore each content partition has its own transactional id; whoever owns
the partition initialises it (which fences the former owner) *before* reading the committed offset.

Three clients with separate duties:

    membership   a group consumer that is never read from; it only learns who owns what
    producers    one per owned partition, fencing by their transactional ids
    readers      an assigned consumer for each topic, standing at the committed offsets

A `_OwnershipSession` is what one assignment built. It is thrown away whole, at a revocation as at
a fence: nothing of it is re-used, so nothing stale can be written through it.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Collection, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial

import structlog
from aiokafka import (
    AIOKafkaConsumer,
    AIOKafkaProducer,
    ConsumerRebalanceListener,
)
from aiokafka import TopicPartition as KafkaPartition
from aiokafka.errors import (
    IllegalOperation,
    InvalidSessionTimeoutError,
    KafkaError,
    MessageSizeTooLargeError,
    RecordListTooLargeError,
)

from contracts import fault_points
from contracts.errors import (
    ConfigurationError,
    Fenced,
    LogChanged,
    RecordTooLarge,
    TidelensError,
    TopicMismatch,
)
from contracts.events.dead_letter import letter_bytes_max
from contracts.events.record import OutRecord, TopicPartition
from contracts.ports.ownership import Lease, RecordClaim
from contracts.topics import TARGETS, Names
from streams.kafka.client_lifecycle import (
    close_consumer_or_producer,
    retrieve_exception_of,
    run_to_completion,
    start_all,
    start_client,
)
from streams.kafka.connection import KafkaConnection
from streams.kafka.event_log import KafkaLogReader
from streams.ownership.commit_metadata import TopicPair, commit_request
from streams.ownership.reconcile import tombstones_for_missed_deletes
from streams.ownership.start_offsets import (
    StartPosition,
    StartRequest,
    find_start_positions,
    now_ms,
)
from streams.topics.admin import delete_retention_s
from streams.topics.identity import ABSENT, ANSWER_S, TopicIdClient, TopicIdentityCheck
from streams.topics.metadata import TopicDescription, describe_topics
from streams.topics.partition_counts import PartitionCounts, fitting_count
from streams.topics.retention import RETENTION_MIN_S

log = structlog.get_logger(__name__)

# The membership consumer is never polled; Kafka's clients would leave the group after this time.
_POLL_INTERVAL_MS = 2**31 - 1
_RETRY_S = 1.0
# What a session may end by. aiokafka's IllegalOperation, what a producer answers that was fenced
# between two steps of a transaction, is no KafkaError.
_CLIENT_ERRORS = (KafkaError, IllegalOperation, OSError, AssertionError)


class KafkaOwnership:
    """The Ownership port on Kafka. Make it with KafkaEncoderLog.own."""

    def __init__(
        self,
        connection: KafkaConnection,
        names: Names,
        group: str,
        *,
        record_bytes_max: int,
        session_timeout_ms: int = 10_000,
        transaction_timeout_ms: int = 60_000,
        drain_ms: int = 1_000,
        retention_min_s: float = RETENTION_MIN_S,
    ) -> None:
        self._connection = connection
        self._names = names
        self._group = group
        self._record_bytes_max = record_bytes_max
        self._session_timeout_ms = session_timeout_ms
        self._transaction_timeout_ms = transaction_timeout_ms
        self._drain_ms = drain_ms
        self._retention_min_s = retention_min_s
        self._membership: AIOKafkaConsumer | None = None
        self._assignment: frozenset[TopicPartition] = frozenset()
        self._is_member = False
        self._changed = asyncio.Event()
        self._session: _OwnershipSession | None = None
        self._building = asyncio.Lock()
        self._ended: list[_OwnershipSession] = []
        self._counts = PartitionCounts(
            names.prefix, self._find, partial(KafkaLogReader.open, connection)
        )

    @property
    def owned_partitions(self) -> frozenset[TopicPartition]:
        return frozenset(self._session.leases) if self._session else frozenset()

    @property
    def is_member(self) -> bool:
        return self._membership is not None and self._is_member

    def is_current(self, lease: Lease) -> bool:
        return self._session is not None and self._session.leases.get(lease.partition) is lease

    async def fetch(
        self,
        topic: str,
        *,
        records_max: int,
        timeout_ms: int,
        without: Collection[TopicPartition] = (),
    ) -> list[RecordClaim]:
        """Records of the partitions owned now. Joins the group anew where that is needed."""
        session = None
        try:
            session = await self._current(timeout_ms / 1000)
            if session is None:
                return []
            return await session.fetch(
                topic, records_max=records_max, timeout_ms=timeout_ms, without=without
            )
        except InvalidSessionTimeoutError:
            raise ConfigurationError(
                f"TIDELENS_ENCODE_SESSION_MS: the brokers refuse {self._session_timeout_ms} "
                "(their group.min.session.timeout.ms and group.max.session.timeout.ms)"
            ) from None
        except ConfigurationError:
            # Joining again would only meet the same error, such as a newer version's commits.
            raise
        except (*_CLIENT_ERRORS, TidelensError) as error:
            # Of a session that has ended meanwhile, whatever ended it: the next one is no worse.
            if session is self._session:
                log.warning("encoder joins anew", error=repr(error))
                await self._drop(session)
                await asyncio.sleep(_RETRY_S)
            return []

    async def commit(self, claimed: RecordClaim, outputs: Sequence[OutRecord]) -> None:
        session = self._session
        if session is None or not self.is_current(claimed.lease):
            raise Fenced(f"{claimed.lease.partition} was taken from this encoder")
        try:
            await session.commit(claimed, outputs)
        except RecordTooLarge:
            # No fence: whoever owns the partition meets the same record. But the producer's
            # sequence has a gap now, so that it cannot go on.
            await self._drop(session)
            raise
        except (*_CLIENT_ERRORS, LogChanged) as error:
            # aiokafka raises ProducerFenced once, then bare AssertionErrors; other errors leave
            # the transaction's fate unknown. All end the same way: drop everything and join anew,
            # also when we still believe that we are assigned. Re-initialising the producer in
            # place would fence the rightful owner back.
            await self._drop(session)
            raise Fenced(f"{claimed.lease.partition}: {error!r}") from error

    async def close(self) -> None:
        await self._drop_all()

    async def _current(self, timeout_s: float) -> "_OwnershipSession | None":
        """The session of the newest assignment, built if it does not stand yet."""
        if self._session is not None and not self._changed.is_set():
            return self._session
        async with self._building:
            return await self._built(timeout_s)

    async def _built(self, timeout_s: float) -> "_OwnershipSession | None":
        await self._abandon_ended()
        if self._membership is None:
            await self._join()
        if self._session is None and not self._changed.is_set():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(timeout_s):
                    await self._changed.wait()
        if self._changed.is_set():
            self._changed.clear()
            self._end_session()
            await self._abandon_ended()
            if self._assignment:
                session = _OwnershipSession(self, self._assignment)
                try:
                    await session.open()
                except BaseException:
                    await session.abandon()
                    raise
                if self._changed.is_set():
                    # Reassigned while we were opening; what we built may be somebody else's.
                    await session.abandon()
                    return None
                self._session = session
        return self._session

    async def _join(self) -> None:
        membership = AIOKafkaConsumer(
            **self._connection.client_options(),
            group_id=self._group,
            enable_auto_commit=False,
            auto_offset_reset="none",
            isolation_level="read_committed",
            max_poll_interval_ms=_POLL_INTERVAL_MS,
            session_timeout_ms=self._session_timeout_ms,
            heartbeat_interval_ms=max(100, self._session_timeout_ms // 5),
            rebalance_timeout_ms=self._session_timeout_ms,
        )
        topics = [self._names.content(target) for target in TARGETS]
        membership.subscribe(topics, listener=_Listener(self, membership))
        self._membership = membership
        await start_client(membership)

    async def drain(self) -> None:
        """Let what is under way be committed before the partitions are given up, within a bound."""
        if self._session is not None:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._drain_ms / 1000):
                    await self._session.drained()

    def reassigned(self, partitions: frozenset[TopicPartition]) -> None:
        """Called by the listener: whatever was built for the former assignment has ended."""
        self._end_session()
        self._assignment = partitions
        self._changed.set()

    def joined(self, partitions: frozenset[TopicPartition]) -> None:
        """Called by the listener: the group has given us this share."""
        self.reassigned(partitions)
        self._is_member = True

    async def _find(self, topics: Collection[str]) -> Mapping[str, TopicDescription]:
        async with self._connection.client() as client:
            return await describe_topics(client, topics, absent_ok=True)

    def _end_session(self) -> None:
        if self._session is not None:
            self._session.leases.clear()
            self._ended.append(self._session)
            self._session = None

    async def _abandon_ended(self) -> None:
        while self._ended:
            await self._ended.pop().abandon()

    async def _drop(self, session: "_OwnershipSession | None") -> None:
        """Drop all, if `session` is still current: the first that sees it fail does."""
        async with self._building:
            if session is self._session:
                await self._drop_all()

    async def _drop_all(self) -> None:
        self._end_session()
        self._assignment = frozenset()
        self._is_member = False
        membership, self._membership = self._membership, None
        if membership is not None:
            await close_consumer_or_producer(membership)
        self._changed.clear()
        await self._abandon_ended()


class _Listener(ConsumerRebalanceListener):  # type: ignore[misc]
    """Hands assignments over. The group waits for it: what is slow in it is bounded."""

    def __init__(self, owner: KafkaOwnership, membership: AIOKafkaConsumer) -> None:
        self._owner = owner
        self._membership = membership

    async def on_partitions_revoked(self, revoked: Sequence[KafkaPartition]) -> None:
        await self._owner.drain()
        self._owner.reassigned(frozenset())

    async def on_partitions_assigned(self, assigned: Sequence[KafkaPartition]) -> None:
        # Paused at once: this consumer must not fetch what it will never be asked for.
        self._membership.pause(*assigned)
        self._owner.joined(frozenset(TopicPartition(*partition) for partition in assigned))


class _OwnershipSession:
    """What one assignment built: leases, a fenced producer for each, readers at their offsets.

    A reader for each topic, so that a lane that waits for captions holds no pictures up.
    """

    def __init__(self, owner: KafkaOwnership, partitions: frozenset[TopicPartition]) -> None:
        self._owner = owner
        self._partitions = sorted(partitions)
        self.leases: dict[TopicPartition, Lease] = {}
        self._producers: dict[TopicPartition, AIOKafkaProducer] = {}
        self._readers: dict[str, KafkaLogReader] = {}
        self._topic_client = TopicIdClient(owner._connection)
        self._same = TopicIdentityCheck(self._topic_client, {})
        self._claimed_to: dict[TopicPartition, int] = {}
        self._committed_to: dict[TopicPartition, int] = {}
        # Once it drains, nothing more is fetched, and each commit is looked at.
        self._drained: asyncio.Event | None = None
        self._committing: set[asyncio.Timeout] = set()
        # Every delete before that time is in the embeddings (invariant 7).
        self._caught_up_ms: dict[TopicPartition, int] = {}
        self._retention_s = float("inf")

    async def open(self) -> None:
        """Fence, then read the offsets, then stand at them: in this order (invariant 2)."""
        await self._look_at_topics()
        if not self._partitions:
            return
        topics = {partition.topic for partition in self._partitions}
        # 1. Initialise every producer: from here on no former owner can commit.
        self._producers = {partition: self._producer(partition) for partition in self._partitions}
        fault_points.reach("takeover.fencing")
        await start_all(self._producers.values())
        fault_points.reach("takeover.fenced")
        # 2. Read what the group committed.
        found = await find_start_positions(
            self._owner._connection,
            self._owner._group,
            {p: StartRequest(self._embeddings(p), self._pair(p)) for p in self._partitions},
        )
        # 3. Fresh readers, standing there, or where the log begins if it has no such place.
        for topic in topics:
            of_topic = {p: start.offset for p, start in found.items() if p.topic == topic}
            reader = await KafkaLogReader.open(self._owner._connection, of_topic)
            self._readers[topic] = reader
        self._claimed_to = {p: start.offset for p, start in found.items()}
        self._committed_to = dict(self._claimed_to)
        # 4. Before anything is read: deletes that may have gone unseen.
        await self._make_up_for_deletes(found)

    async def _look_at_topics(self) -> None:
        """Take leases of the partitions that the topics were made with, if the topics fit.

        A target whose topics do not fit, or are missing, does not keep the other one from being
        encoded: it is looked at again once its topics have changed.
        """
        owner, names = self._owner, self._owner._names
        topics = [f(target) for f in (names.content, names.embeddings) for target in TARGETS]
        found = await owner._find(topics)
        kept = await owner._counts.recorded(found)
        self._same = TopicIdentityCheck(
            self._topic_client,
            {topic: found[topic].id if topic in found else ABSENT for topic in topics},
        )
        for target in TARGETS:
            own = [p for p in self._partitions if p.topic == names.content(target)]
            if not own:
                continue
            try:
                made = fitting_count(names, target, found, kept)
            except TopicMismatch as error:
                log.error("topics do not fit; only the others are encoded", reason=str(error))
                continue
            topic_id = found[names.content(target)].id
            self.leases |= {p: Lease(p, topic_id, made) for p in own if p.partition < made}
        self._partitions = sorted(self.leases)

    async def fetch(
        self,
        topic: str,
        *,
        records_max: int,
        timeout_ms: int,
        without: Collection[TopicPartition],
    ) -> list[RecordClaim]:
        self._same.require()
        reader = self._readers.get(topic)
        if reader is None or self._drained is not None:
            await asyncio.sleep(timeout_ms / 1000)
            return []
        fetched = await reader.fetch(
            records_max=records_max, timeout_ms=timeout_ms, without=without
        )
        # Judged by what had been seen before: what came now may follow deletes that are gone.
        if any(self._too_old(p) for p in self.leases if p.topic == topic):
            raise LogChanged("not caught up for longer than delete.retention.ms")
        for partition, asked in fetched.caught_up_at.items():
            self._caught_up_ms[partition] = int(asked * 1000)
        claims = []
        for partition, position in fetched.positions.items():
            lease = self.leases.get(partition)
            if lease is None:
                continue
            # A position may move past transaction markers alone: then only the offset is written.
            if position > self._claimed_to[partition]:
                self._claimed_to[partition] = position
                claims.append(RecordClaim(lease, fetched.records.get(partition, []), position))
        return claims

    async def commit(self, claimed: RecordClaim, outputs: Sequence[OutRecord]) -> None:
        """Raises TimeoutError past the transaction's time, and when the session is abandoned."""
        async with asyncio.timeout(self._owner._transaction_timeout_ms / 1000) as bound:
            self._committing.add(bound)
            try:
                await self._transact(claimed, outputs)
            finally:
                self._committing.remove(bound)

    async def _transact(self, claimed: RecordClaim, outputs: Sequence[OutRecord]) -> None:
        partition = claimed.lease.partition
        producer = self._producers[partition]
        # Ask after the records were fetched, and beside the steps that take longer.
        looking = self._same.check_now()
        # 1. Open the transaction and append the outputs in source order.
        await producer.begin_transaction()
        sent = []
        for record in outputs:
            with _translate_size_errors(record):
                future = await producer.send(
                    record.topic,
                    record.value,
                    record.key,
                    partition=record.partition,
                    headers=list(record.headers),
                )
            # What fails a send is reported below, or by what failed before it.
            retrieve_exception_of(future)
            sent.append(future)
        fault_points.reach("encode.sent")
        # 2. The source offset joins the same transaction.
        offset = commit_request(
            claimed.next_position,
            self._pair(partition),
            self._caught_up_ms.get(partition),
        )
        await producer.send_offsets_to_transaction(
            {KafkaPartition(*partition): offset}, self._owner._group
        )
        fault_points.reach("encode.offsets_sent")
        # 3. Every output is delivered: aiokafka would commit without what the broker refused.
        for record, future in zip(outputs, sent, strict=True):
            with _translate_size_errors(record):
                await future
        # 4. Check that the topics are still those that the records came from and go to, as far as
        # the broker can tell now. A commit that is wrong all the same names the topics that it
        # belongs to.
        await asyncio.wait([looking], timeout=ANSWER_S)
        self._same.require()
        # 5. Both become visible, or neither.
        await producer.commit_transaction()
        fault_points.reach("encode.committed")
        self._committed_to[partition] = claimed.next_position
        self._look_drained()

    async def drained(self) -> None:
        """Fetch nothing more, and wait until all that was claimed is committed."""
        if self._drained is None:
            self._drained = asyncio.Event()
        self._look_drained()
        await self._drained.wait()

    def _look_drained(self) -> None:
        if self._drained is not None and self._committed_to == self._claimed_to:
            self._drained.set()

    async def abandon(self) -> None:
        """Close everything within a bound; a fenced producer may never flush."""
        await run_to_completion(self._abandon())

    async def _abandon(self) -> None:
        self.leases.clear()
        producers, self._producers = list(self._producers.values()), {}
        readers, self._readers = list(self._readers.values()), {}
        closing: list[Awaitable[object]] = [
            close_consumer_or_producer(producer) for producer in producers
        ]
        closing += [reader.close() for reader in readers]
        closing += [self._same.close(), self._topic_client.close()]
        await asyncio.gather(*closing)
        # A closed producer answers nobody: end what still waits for one.
        for bound in self._committing:
            if not bound.expired():
                bound.reschedule(0)

    def _producer(self, partition: TopicPartition) -> AIOKafkaProducer:
        owner = self._owner
        target = owner._names.target_of(partition.topic)
        assert target is not None
        return AIOKafkaProducer(
            **owner._connection.client_options(),
            transactional_id=owner._names.transactional_id(target, partition.partition),
            transaction_timeout_ms=owner._transaction_timeout_ms,
            max_request_size=letter_bytes_max(owner._record_bytes_max),
            max_batch_size=1024 * 1024,
            linger_ms=0,
        )

    async def _make_up_for_deletes(self, found: Mapping[TopicPartition, StartPosition]) -> None:
        """Reconcile where deletes may have come and gone unseen (invariant 7).

        In a re-encode that takes longer than tombstones are kept, this happens on its way.
        """
        owner = self._owner
        topics = {partition.topic for partition in found}
        retention_s = await delete_retention_s(owner._connection, topics)
        self._retention_s = max(owner._retention_min_s, retention_s)
        for partition, start in found.items():
            if start.caught_up_ms is not None:
                self._caught_up_ms[partition] = start.caught_up_ms
            if start.caught_up_ms is None or self._too_old(partition):
                await self._reconcile(partition, start)

    def _embeddings(self, partition: TopicPartition) -> TopicPartition:
        """Return the embeddings partition that belongs to a content partition."""
        names = self._owner._names
        target = names.target_of(partition.topic)
        assert target is not None
        return TopicPartition(names.embeddings(target), partition.partition)

    def _pair(self, partition: TopicPartition) -> TopicPair:
        ids = self._same.ids
        return TopicPair(ids[partition.topic], ids[self._embeddings(partition).topic])

    def _too_old(self, partition: TopicPartition) -> bool:
        return now_ms() - self._caught_up_ms[partition] > 1000 * self._retention_s

    async def _reconcile(self, partition: TopicPartition, start: StartPosition) -> None:
        """What the embeddings hold and the content no longer does must go.

        Nothing of this partition is under way now, so that no vector of an item that is gone can
        follow its tombstone.
        """
        owner, began_ms = self._owner, now_ms()
        tombstones = await tombstones_for_missed_deletes(
            owner._connection,
            partition,
            self._embeddings(partition),
            self._same.ids[partition.topic],
        )
        self._caught_up_ms[partition] = began_ms
        if tombstones:
            log.warning("reconciling", partition=partition.partition, tombstones=len(tombstones))
        # A committed offset that the log does not have must not stand: it may grow past it again.
        if tombstones or not start.is_first:
            await self.commit(RecordClaim(self.leases[partition], [], start.offset), tombstones)


@contextlib.contextmanager
def _translate_size_errors(record: OutRecord) -> Iterator[None]:
    try:
        yield
    except (MessageSizeTooLargeError, RecordListTooLargeError) as error:
        size = len(record.value or b"")
        raise RecordTooLarge(
            f"topic {record.topic} takes no record with a value of {size} bytes, or no batch with "
            "it: raise its max.message.bytes; `tidelens topics describe` shows what is wanted"
        ) from error


class KafkaEncoderLog:
    """The EncoderLog port on Kafka."""

    def __init__(
        self,
        connection: KafkaConnection,
        names: Names,
        *,
        record_bytes_max: int,
        session_timeout_ms: int = 10_000,
        drain_ms: int = 1_000,
        retention_min_s: float = RETENTION_MIN_S,
    ) -> None:
        self._connection = connection
        self._names = names
        self._record_bytes_max = record_bytes_max
        self._session_timeout_ms = session_timeout_ms
        self._drain_ms = drain_ms
        self._retention_min_s = retention_min_s

    @asynccontextmanager
    async def join(self, group: str) -> AsyncIterator[KafkaOwnership]:
        ownership = KafkaOwnership(
            self._connection,
            self._names,
            group,
            record_bytes_max=self._record_bytes_max,
            session_timeout_ms=self._session_timeout_ms,
            drain_ms=self._drain_ms,
            retention_min_s=self._retention_min_s,
        )
        try:
            yield ownership
        finally:
            await ownership.close()
