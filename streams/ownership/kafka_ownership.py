"""An encoder's hold on its partitions: invariant 2, built on aiokafka.

A plain consumer loop would not do: aiokafka has no group-generation fencing for transactions, so a
late writer behind a rebalance could append an older vector after a newer one, and compaction would
keep the older one. Therefore each content partition has its own transactional id. A new owner of
the partition initialises it, which fences the former owner, *before* it reads the committed offset.

Three sets of clients have separate duties:

    membership   a group consumer that is never read from; it only learns who owns what
    writers      one producer for each owned partition, fencing by their transactional ids
    readers      an assigned consumer for each topic, starting at the committed offsets

The membership belongs to `Membership`, the writers and readers to one `OwnershipSession`. The
states and steps between them are the table of streams/ownership/states.py.
"""

import asyncio
from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import asynccontextmanager, suppress
from functools import partial

import structlog
from aiokafka.errors import IllegalOperation, InvalidSessionTimeoutError, KafkaError

from contracts.errors import (
    ConfigurationError,
    Fenced,
    LogChanged,
    RecordTooLarge,
    TidelensError,
)
from contracts.events.record import OutRecord, TopicPartition
from contracts.ports.ownership import Lease, RecordClaim
from contracts.topics import Names
from streams.kafka.connection import KafkaConnection
from streams.kafka.log_reader import KafkaLogReader
from streams.ownership.membership import Membership
from streams.ownership.options import OwnershipOptions
from streams.ownership.session import OwnershipSession
from streams.ownership.states import OwnershipState, OwnershipStates, OwnershipStep
from streams.topics.admin import find_topics
from streams.topics.partition_counts import PartitionCounts
from streams.topics.retention import RETENTION_MIN_S

log = structlog.get_logger(__name__)

_RETRY_S = 1.0
# What may end a session. aiokafka's IllegalOperation, raised by a producer that was fenced between
# two steps of a transaction, is not a KafkaError.
_CLIENT_ERRORS = (KafkaError, IllegalOperation, OSError, AssertionError)


class KafkaOwnership:
    """The Ownership port on Kafka. `KafkaEncoderLog.join` makes it and closes it."""

    def __init__(self, options: OwnershipOptions) -> None:
        self._options = options
        self._states = OwnershipStates()
        self._membership: Membership | None = None
        self._session: OwnershipSession | None = None
        self._ended: list[OwnershipSession] = []
        # One caller at a time joins the group, opens a session, or drops one that failed.
        self._changing = asyncio.Lock()
        self._leaving = asyncio.Lock()
        self._counts = PartitionCounts(
            options.names.prefix,
            partial(find_topics, options.connection),
            partial(KafkaLogReader.open, options.connection),
        )

    @property
    def owned_partitions(self) -> frozenset[TopicPartition]:
        return frozenset(self._session.leases) if self._session else frozenset()

    @property
    def is_member(self) -> bool:
        return self._membership is not None and self._membership.has_share

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
        """Claim records of the partitions owned now, after joining the group again if necessary.

        Raises ConfigurationError if joining again would only meet the same error.
        """
        session = None
        try:
            session = await self._current_session(timeout_ms / 1000)
            if session is None:
                return []
            return await session.fetch(
                topic, records_max=records_max, timeout_ms=timeout_ms, without=without
            )
        except InvalidSessionTimeoutError:
            raise ConfigurationError(
                f"TIDELENS_ENCODE_SESSION_MS: the brokers refuse {self._options.session_timeout_ms}"
                " (their group.min.session.timeout.ms and group.max.session.timeout.ms)"
            ) from None
        except ConfigurationError:
            # Joining again would only meet the same error, such as a newer version's commits.
            raise
        except (*_CLIENT_ERRORS, TidelensError) as error:
            # If the session has ended meanwhile, its error says nothing about the next one.
            if session is self._session:
                log.warning("encoder joins the group again", error=repr(error))
                await self._drop(session)
                await asyncio.sleep(_RETRY_S)
            return []

    async def commit(self, claim: RecordClaim, outputs: Sequence[OutRecord]) -> None:
        """Write outputs and offset of a claim, or neither. Raises Fenced and RecordTooLarge."""
        session = self._session
        if session is None or not self.is_current(claim.lease):
            raise Fenced(f"{claim.lease.partition} was taken from this encoder")
        try:
            await session.commit(claim, outputs)
        except RecordTooLarge:
            # Not a fence: every owner of the partition meets the same record. But the producer's
            # sequence has a gap now, so it cannot go on.
            await self._drop(session)
            raise
        except (*_CLIENT_ERRORS, LogChanged) as error:
            # aiokafka raises ProducerFenced once, then bare AssertionErrors; other errors leave it
            # unknown whether the transaction was committed. All end the same way: drop everything
            # and join again, even if the partition still seems to be assigned. Initialising the
            # producer again in its session would fence the rightful owner.
            await self._drop(session)
            raise Fenced(f"{claim.lease.partition}: {error!r}") from error

    async def close(self) -> None:
        """Leave the group and close all clients. A close that was cancelled can be repeated."""
        await self._leave()

    async def _current_session(self, timeout_s: float) -> OwnershipSession | None:
        """Return the session of the newest assignment, and open it first if it is not open yet."""
        if self._states.state is OwnershipState.SERVING:
            return self._session
        async with self._changing:
            await self._abandon_ended()
            if self._states.state is OwnershipState.LEAVING:
                await self._leave()
            if self._states.state is OwnershipState.OUT:
                await self._join_group()
            if self._states.state is OwnershipState.WAITING:
                await self._states.wait_for_rebalance(timeout_s)
            if self._states.state is OwnershipState.REBALANCED:
                await self._open_session()
            return self._session

    async def _join_group(self) -> None:
        self._states.take(OwnershipStep.JOIN)
        self._membership = Membership(self._options, self._drain, self._rebalanced)
        await self._membership.join()

    async def _open_session(self) -> None:
        """Open a session for the newest assignment, unless that changes meanwhile."""
        assert self._membership is not None
        assignment = self._membership.assignment
        if not assignment:
            self._states.take(OwnershipStep.IDLE)
            return
        self._states.take(OwnershipStep.OPEN)
        session = OwnershipSession(self._options, assignment, self._counts)
        try:
            await session.open()
        except BaseException:
            if self._states.state is OwnershipState.OPENING:
                self._states.take(OwnershipStep.FAIL)
            await session.abandon()
            raise
        if self._states.state is not OwnershipState.OPENING:
            # The partitions of this session may belong to another encoder by now.
            await session.abandon()
            return
        self._session = session
        self._states.take(OwnershipStep.SERVE)

    async def _drain(self) -> None:
        """Wait up to `drain_ms` for the commits of all claims before partitions are given up."""
        if self._session is not None:
            with suppress(TimeoutError):
                async with asyncio.timeout(self._options.drain_ms / 1000):
                    await self._session.drain()

    def _rebalanced(self, membership: Membership) -> None:
        """End the session at once: whatever was built for the former assignment is void.

        A membership that was left may still report rebalances while it closes.
        """
        if membership is self._membership:
            self._end_session()
            self._states.take(OwnershipStep.REBALANCE)

    def _end_session(self) -> None:
        if self._session is not None:
            self._session.end_leases()
            self._ended.append(self._session)
            self._session = None

    async def _abandon_ended(self) -> None:
        while self._ended:
            await self._ended.pop().abandon()

    async def _drop(self, session: OwnershipSession | None) -> None:
        """Leave the group if `session` is still current: the first that sees it fail does so."""
        async with self._changing:
            if session is self._session:
                await self._leave()

    async def _leave(self) -> None:
        async with self._leaving:
            self._states.take(OwnershipStep.LEAVE)
            self._end_session()
            membership, self._membership = self._membership, None
            if membership is not None:
                await membership.leave()
            await self._abandon_ended()
            self._states.take(OwnershipStep.LEFT)


class KafkaEncoderLog:
    """The EncoderLog port on Kafka; OwnershipOptions explains the arguments."""

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
        """Yield an ownership in `group`, and close it afterwards."""
        ownership = KafkaOwnership(
            OwnershipOptions(
                self._connection,
                self._names,
                group,
                record_bytes_max=self._record_bytes_max,
                session_timeout_ms=self._session_timeout_ms,
                drain_ms=self._drain_ms,
                retention_min_s=self._retention_min_s,
            )
        )
        try:
            yield ownership
        finally:
            await ownership.close()
