"""Lag of encoders and index nodes: how many records, and how old the oldest of them is.

Lag is measured up to the last stable offset, which is as far as anybody may read. `records` counts
offsets between committed and stable, and is 0 when nothing but transaction markers lies between.
`seconds` is the age of the oldest record not yet processed, read from that record itself.
`unstable` counts the offsets from there to the high watermark, which an open transaction holds
back; Kafka's own tools show the sum of both.

An index node assigns its partitions itself, so its group has commits and no members; whether it
runs is asked of the group of its Faust app.

When the broker is away, `lag` raises BrokerUnavailable within seconds; what was measured last can
still be given to `behind_s`, which lets the ages grow with the clock.
"""

import asyncio
import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from aiokafka.client import AIOKafkaClient
from aiokafka.errors import KafkaError

from contracts.errors import BrokerUnavailable
from contracts.events.record import Positions, TopicPartition
from contracts.groups import GroupName
from contracts.ports.clock import Clock
from contracts.ports.lag import Lag
from contracts.topics import TARGETS, Names
from streams.groups.members import count_members, list_groups
from streams.groups.offsets import group_offsets
from streams.kafka.connection import KafkaConnection
from streams.kafka.log_reader import KafkaLogReader
from streams.lag.oldest_record import OldestRecord, OldestRecordReader
from streams.lag.open_transactions import Unstable, UnstableRecordCounter
from streams.ownership.commit_metadata import TopicPair, valid_offsets
from streams.topics.admin import find_topics
from streams.topics.metadata import describe_topics
from streams.topics.partition_counts import PartitionCounts

_ANSWER_S = 8.0

_Key = tuple[str, TopicPartition]


@dataclass(slots=True)
class _OldestAtPosition:
    """The oldest record at or after `position`, or None if [position, clear_to) has no record."""

    position: int
    clear_to: int
    oldest: OldestRecord | None


class KafkaLag:
    """The lag of one space: of its encoders, and of every index group that has committed.

    A node's own `index_group` is shown even before its first commit. `own_positions` returns how
    far that node is, which its commits follow later; while it returns nothing, the commits count.
    """

    def __init__(
        self,
        connection: KafkaConnection,
        names: Names,
        index_group: str | None,
        clock: Clock,
        own_positions: Callable[[], Positions] = dict,
    ) -> None:
        self._connection = connection
        self.names = names
        self._index_group = index_group
        self._clock = clock
        self._own_positions = own_positions
        self._clients: contextlib.AsyncExitStack | None = None
        self._client: AIOKafkaClient | None = None
        self._reader: OldestRecordReader | None = None
        self._uncommitted: UnstableRecordCounter | None = None
        self._counts: Mapping[str, int] = {}
        self._known: dict[_Key, _OldestAtPosition] = {}
        self._unstable: Mapping[TopicPartition, Unstable] = {}
        self._one_at_a_time = asyncio.Lock()
        # Nobody processes the partitions that were added since.
        self._made = PartitionCounts(
            names.prefix,
            partial(find_topics, connection),
            partial(KafkaLogReader.open, connection),
        )

    async def start(self) -> None:
        """Open the clients. Raises BrokerUnavailable, and TopicMismatch for an absent topic."""
        async with self._one_at_a_time:
            await self._open()

    async def stop(self) -> None:
        async with self._one_at_a_time:
            await self._close()

    async def lag(self) -> list[Lag]:
        """Return one row for each group, topic and partition. Raises BrokerUnavailable.

        This costs six requests, one for each group, and one small fetch for each partition whose
        oldest unprocessed record changed since the last call.
        """
        async with self._one_at_a_time, self._connection.errors_translated():
            try:
                async with asyncio.timeout(_ANSWER_S):
                    # Our clients may be fresh, and reach a broker that the clients at work do not
                    # find.
                    await self._connection.require_reached()
                    if self._clients is None:
                        await self._open()
                    return await self._measure()
            except (KafkaError, TimeoutError):
                # Fresh clients next time: these may hold a broker that is gone for good.
                await self._close()
                raise

    def for_space(self, space: str) -> "KafkaLag":
        """Return the lag of another space of the same collection."""
        names = Names(self.names.prefix, space)
        return KafkaLag(self._connection, names, None, self._clock)

    def behind_s(self, lags: Sequence[Lag]) -> float:
        """Return the age in seconds of the oldest content record that is not in the index yet.

        It includes the encoder's lag and what open transactions hold back, and is 0 when everything
        is in the index. `lags` is what `lag` returned last.
        """
        return max((self._content_age_s(lag) for lag in lags if not lag.gone), default=0.0)

    def _content_age_s(self, lag: Lag) -> float:
        partition = TopicPartition(lag.topic, lag.partition)
        age_s = 0.0
        if lag.records:
            known = self._known.get((lag.group, partition))
            oldest = None if known is None else known.oldest
            age_s = lag.seconds if oldest is None else self._age_s(oldest.appended_ms)
        if lag.unstable:
            unstable = self._unstable.get(partition)
            oldest = None if unstable is None else unstable.oldest
            waited_s = lag.unstable_seconds if oldest is None else self._age_s(oldest.appended_ms)
            age_s = max(age_s, waited_s)
        return age_s

    async def _measure(self) -> list[Lag]:
        assert self._reader is not None and self._uncommitted is not None
        high = await self._uncommitted.high_watermarks()
        bounds = await self._reader.bounds()
        self._unstable = await self._uncommitted.count(
            high, {partition: end for partition, (_, end) in bounds.items()}
        )
        groups = await self._groups()
        members = await self._members([group for _, group, _ in groups])
        positions = {}
        for role, group, topics in groups:
            goes_on = await self._reached(group)
            for topic in topics:
                for number in range(self._counts[topic]):
                    partition = TopicPartition(topic, number)
                    begin, _ = bounds[partition]
                    positions[role, group, partition] = max(goes_on.get(partition, begin), begin)
        await self._look_up(
            {(group, partition): at for (_, group, partition), at in positions.items()}, bounds
        )
        return [
            self._row(role, group, partition, position, bounds[partition][1], members.get(group))
            for (role, group, partition), position in positions.items()
        ]

    async def _reached(self, group: str) -> Positions:
        """Return the group's positions; for the node's own group, those of the node itself."""
        assert self._client is not None
        own = self._own_positions() if group == self._index_group else {}
        if own:
            return own
        committed = await group_offsets(self._client, group)
        if group != self.names.encoder_group:
            return {partition: found.offset for partition, found in committed.items()}
        return valid_offsets(committed, await self._pairs())

    async def _pairs(self) -> dict[str, TopicPair]:
        """Return the ids of today's topics, which an encoder's commits must name."""
        assert self._client is not None
        names = self.names
        topics = [f(target) for f in (names.content, names.embeddings) for target in TARGETS]
        found = await describe_topics(self._client, topics, absent_ok=True)
        return {
            names.content(target): TopicPair(
                found[names.content(target)].id, found[names.embeddings(target)].id
            )
            for target in TARGETS
            if names.content(target) in found and names.embeddings(target) in found
        }

    async def _groups(self) -> list[tuple[str, str, list[str]]]:
        names = self.names
        content = [names.content(target) for target in TARGETS]
        embeddings = [names.embeddings(target) for target in TARGETS]
        return [
            ("encode", names.encoder_group, content),
            *(("index", group, embeddings) for group in await self._index_groups()),
        ]

    async def _index_groups(self) -> list[str]:
        assert self._client is not None
        listed = await list_groups(self._client, f"{self.names.bare}.index.{self.names.space}.")
        own = set() if self._index_group is None else {self._index_group}
        return sorted(own.union(listed))

    async def _members(self, groups: Sequence[str]) -> dict[str, int]:
        """Return how many processes work for each group, where that is known."""
        assert self._client is not None
        prefix = self.names.prefix
        named = {group: GroupName.read(prefix, group) for group in groups}
        # The group with members comes first.
        asked = {group: name.names(prefix)[0] for group, name in named.items() if name}
        found = await count_members(self._client, asked.values())
        members = {group: found[of] for group, of in asked.items() if of in found}
        if self._index_group in members:
            # This node is one of them, even while Faust still joins.
            members[self._index_group] = max(1, members[self._index_group])
        return members

    async def _look_up(
        self,
        positions: Mapping[_Key, int],
        bounds: Mapping[TopicPartition, tuple[int, int]],
    ) -> None:
        """Bring `_known` up to date: read what is new, one span a partition at a time."""
        assert self._reader is not None
        for former in self._known.keys() - positions.keys():
            del self._known[former]
        todo: dict[_Key, tuple[int, int]] = {}
        for key, position in positions.items():
            end = bounds[key[1]][1]
            known = self._known.get(key)
            if known is None or known.position != position:
                known = self._known[key] = _OldestAtPosition(position, position, None)
            if known.oldest is None and known.clear_to < end:
                todo[key] = (known.clear_to, end)
        while todo:
            # Two groups may want the same partition, at different places: one after the other.
            turn = {key[1]: key for key in todo}
            found = await self._reader.read({tp: todo[key] for tp, key in turn.items()})
            for tp, key in turn.items():
                known = self._known[key]
                known.oldest, known.clear_to = found[tp], todo.pop(key)[1]

    def _row(
        self,
        role: str,
        group: str,
        partition: TopicPartition,
        position: int,
        end: int,
        members: int | None,
    ) -> Lag:
        oldest = self._known[group, partition].oldest
        unstable = self._unstable.get(partition)
        first = None if unstable is None else unstable.oldest
        return Lag(
            role=role,
            group=group,
            topic=partition.topic,
            partition=partition.partition,
            position=position,
            end=end,
            records=end - position if oldest else 0,
            seconds=self._age_s(oldest.timestamp_ms) if oldest else 0.0,
            space=self.names.space,
            unstable=0 if unstable is None else unstable.records,
            unstable_seconds=0.0 if first is None else self._age_s(first.timestamp_ms),
            members=members,
        )

    def _age_s(self, timestamp_ms: int) -> float:
        # The broker's clock may run a little ahead of the one here.
        return max(0.0, self._clock.now() - timestamp_ms / 1000)

    async def _open(self) -> None:
        names = self.names
        topics = [f(target) for f in (names.content, names.embeddings) for target in TARGETS]
        async with contextlib.AsyncExitStack() as opening:
            client = await opening.enter_async_context(self._connection.client())
            found = await describe_topics(client, topics)
            counts = await self._made.counts_of(found)
            partitions = [TopicPartition(t, n) for t in topics for n in range(counts[t])]
            reader = await OldestRecordReader.open(self._connection, partitions)
            opening.push_async_callback(reader.close)
            uncommitted = await UnstableRecordCounter.open(self._connection, partitions)
            opening.push_async_callback(uncommitted.close)
            self._client, self._counts = client, counts
            self._reader, self._uncommitted = reader, uncommitted
            # Offsets of another cluster, or of a topic that was created again, mean nothing here.
            self._known.clear()
            self._unstable = {}
            self._clients = opening.pop_all()

    async def _close(self) -> None:
        clients, self._clients = self._clients, None
        if clients is not None:
            with contextlib.suppress(KafkaError, BrokerUnavailable, OSError, TimeoutError):
                async with asyncio.timeout(2):
                    await clients.aclose()
