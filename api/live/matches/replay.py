"""Reading the past of alerts from the log, in slices beside the live traffic.

A pass reads the embeddings of one target from where the furthest behind of its alerts stands, for
all of them together: after a restart, everybody comes back at once and from about the same place.
It ends when the alerts stand where the index does, and from that turn of the event loop on they are
matched with batches; or when it has read its share, and others get theirs.
"""

import asyncio
from collections import defaultdict
from collections.abc import Sequence
from itertools import islice
from typing import NamedTuple

import numpy as np
import structlog

from api.live.batch_match import FILTER_EVALUATIONS_MAX, MatchBatch, QueryMatrix
from api.live.matches.alert import Alert, AlertSet
from api.node import Node
from api.queries.prepare import resolve_query
from contracts.errors import BrokerUnavailable, LogChanged, NotReady, RejectedRequest
from contracts.events.record import Record, RecordPosition, TopicPartition
from contracts.ports.event_log import LogReader
from contracts.ports.hit import Hit
from contracts.ports.search import AppliedBatch
from contracts.score import Vectors
from contracts.topics import Target
from contracts.wire.as_of import AsOf
from index_store.record_reader import IndexRecord, RecordReader

log = structlog.get_logger(__name__)

_PASSES = 2
# Alerts of one pass, and how many records apart they may stand at most.
_TOGETHER = 1024
_LOOKED_AT = 4096
_NEAR = 20_000
# Records: of one fetch; matched without leaving the event loop; and the share of one pass.
_FETCHED = 1024
_AT_ONCE = 128
_SHARE = 50_000
# Matches of one fetch, in a thread and on the loop; who has the most is read for another time.
_MATCHES = 32_768
_MATCHES_AT_ONCE = 4096
_FETCH_MS = 100
_RETRY_S = 0.25

_Offsets = list[int]


class AlertReplay:
    """Owns the alerts, and reads for those that do not follow."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self.alerts = AlertSet(node.matcher, self.read)
        # Those that stand near the index, and those far behind it; each gets every other pass, so
        # that who was away for long, or says so, does not keep the others from following.
        self._near: dict[Alert, None] = {}
        self._far: dict[Alert, None] = {}
        self._turn = 0
        self._workers: set[asyncio.Task[None]] = set()

    def waiting(self) -> int:
        """How many are to be read for."""
        return len(self._near) + len(self._far)

    def remove(self, alert: Alert) -> None:
        """It is over: nobody waits for it any more."""
        self._near.pop(alert, None)
        self._far.pop(alert, None)
        self.alerts.remove(alert)

    def read(self, alert: Alert) -> None:
        """Let it be read up to where the index stands."""
        alert.paused = False
        self._wait(alert)
        if len(self._workers) < _PASSES:
            self._workers.add(asyncio.create_task(self._work(), name="rereading"))

    async def _work(self) -> None:
        try:
            await self._node.side.until_done("rereading", self._read_all)
        finally:
            # In the turn in which nothing was left: else who comes then would find us at work.
            self._workers.discard(asyncio.current_task())

    async def _read_all(self) -> None:
        while self.waiting():
            if self.alerts.is_full:
                await asyncio.sleep(_RETRY_S)
                continue
            together = self._next()
            one = _ReplayPass(self._node, self.alerts, together)
            try:
                await one.run()
            except (NotReady, BrokerUnavailable) as error:
                log.info("alerts wait to be read for", error=str(error))
                await asyncio.sleep(_RETRY_S)
            except Exception as error:
                for alert in one.left:
                    alert.fail(error)
                continue
            for alert in one.left:
                if alert not in self.alerts:
                    continue
                if alert.is_full:
                    alert.paused = True
                else:
                    self._wait(alert)

    def _wait(self, alert: Alert) -> None:
        try:
            now = self._node.searcher.as_of()
        except NotReady:
            now = alert.position
        near = _are_near(alert.position, now, alert.target)
        (self._near if near else self._far)[alert] = None

    def _next(self) -> list[Alert]:
        """The one that waits longest, and who can be read for with it."""
        self._turn += 1
        queues = (self._near, self._far) if self._turn % 2 else (self._far, self._near)
        queue = queues[0] or queues[1]
        first = next(iter(queue), None)
        if first is None:
            return []
        together = [
            alert
            for alert in islice(queue, _LOOKED_AT)
            if alert.target == first.target
            and _are_near(alert.position, first.position, first.target)
        ][:_TOGETHER]
        for alert in together:
            del queue[alert]
        return together


def _are_near(one: AsOf, other: AsOf, target: Target) -> bool:
    """Whether what lies between them is read quickly."""
    if (one.space, one.epoch) != (other.space, other.epoch):
        return False
    pairs = zip(one.offsets[target], other.offsets[target], strict=True)
    return sum(abs(mine - theirs) for mine, theirs in pairs) <= _NEAR


class _ReplayPass:
    """One pass over the log, for some alerts of one target."""

    def __init__(self, node: Node, alerts: AlertSet, together: Sequence[Alert]) -> None:
        self._node = node
        self._alerts = alerts
        self._target: Target = together[0].target
        self._together = list(together)
        self._out: list[Alert] = []
        self._topic = node.names.embeddings(self._target)
        self._reader = RecordReader(node.space, self._target)
        self._generation = node.searcher.generation
        self._vectors: dict[Alert, Vectors] = {}
        # What was fetched and is not matched yet: records that the index has not applied either.
        self._ahead: dict[int, list[Record]] = defaultdict(list)

    @property
    def left(self) -> list[Alert]:
        """Those that do not follow yet. One that does may be another pass's again by now."""
        return self._out + self._together

    async def run(self) -> None:
        """Raises NotReady and BrokerUnavailable; then, and after its share, some may be left."""
        self._leave_lost()
        await self._look_up()
        if not self._together:
            return
        starts = [self._offsets(alert.position) for alert in self._together]
        at = [min(offsets) for offsets in zip(*starts, strict=True)]
        if self._join(at):
            return
        try:
            reader = await self._node.log.tail(
                {TopicPartition(self._topic, n): offset for n, offset in enumerate(at)}
            )
        except LogChanged as error:
            self._lose(error, at)
            return
        try:
            await self._read(reader, at)
        except LogChanged as error:
            self._lose(error, at)
        finally:
            await reader.close()

    async def _read(self, reader: LogReader, at: _Offsets) -> None:
        share = _SHARE
        while share > 0 and self._together:
            fetched = await reader.fetch(records_max=_FETCHED, timeout_ms=_FETCH_MS)
            for partition, records in fetched.records.items():
                self._ahead[partition.partition] += records
            share -= max(1, sum(map(len, fetched.records.values())))
            ends = [fetched.positions[TopicPartition(self._topic, n)] for n in range(len(at))]
            at = await self._match_up_to(ends, at)
            if not self._together:
                return
            # What the index applied meanwhile may have been fetched already. If little, match it
            # in this turn of the event loop, so that nothing can come between that and joining.
            now = self._now()
            upto = _least(ends, self._offsets(now))
            if self._count(upto) <= _AT_ONCE:
                found = self._found(self._take(upto), _MATCHES_AT_ONCE, FILTER_EVALUATIONS_MAX)
                at = self._tell(found, at, upto)
                if self._join(at):
                    return

    async def _match_up_to(self, ends: _Offsets, at: _Offsets) -> _Offsets:
        """Match what was fetched and the index has applied, where that is much."""
        upto = _least(ends, self._offsets(self._now()))
        if self._count(upto) <= _AT_ONCE:
            return at
        batch = self._take(upto)
        found = await asyncio.to_thread(self._found, batch, _MATCHES)
        return self._tell(found, at, upto)

    def _tell(self, found: "_ReplayMatches", at: _Offsets, upto: _Offsets) -> _Offsets:
        """Hand out what was found; where that leads to."""
        hits: dict[Alert, list[Hit]] = {}
        for alert in found.left_out:
            self._leave(alert)
        for alert, hit, partition, offset in found.hits:
            if offset >= self._offsets(alert.position)[partition]:
                hits.setdefault(alert, []).append(hit)
        at = [max(*pair) for pair in zip(at, upto, strict=True)]
        for alert in list(self._together):
            alert.add(hits.get(alert, []), self._moved(alert.position, at))
            if alert.is_full or alert not in self._alerts:
                self._leave(alert)
        return at

    def _leave(self, alert: Alert) -> None:
        """It is read for another time, from where it stands."""
        self._together.remove(alert)
        self._out.append(alert)

    def _join(self, at: _Offsets) -> bool:
        """Let alerts follow where they stand at the state of now; whether all do, or are gone."""
        now = self._now()
        if self._offsets(now) != at:
            return False
        for alert in self._together:
            if alert in self._alerts and not alert.stale and self._offsets(alert.position) == at:
                self._alerts.follow(alert, self._vectors[alert], now)
        self._together = [
            alert for alert in self._together if alert in self._alerts and not alert.following
        ]
        return not self._together or any(alert.stale for alert in self._together)

    async def _look_up(self) -> None:
        for alert in list(self._together):
            alert.stale = False
            try:
                asked = await resolve_query(self._node.searcher, alert.query)
                self._vectors[alert] = asked.vector
            except RejectedRequest as refused:
                # Its own fault, which must not be the others': an item that is gone, or items whose
                # sum is no vector.
                self._together.remove(alert)
                alert.fail(refused)

    def _leave_lost(self) -> None:
        """Of another log or space: what was between is not to be had."""
        now = self._now()
        for alert in list(self._together):
            if alert.position.epoch != now.epoch:
                alert.lose("epoch_changed: the log was made anew", now)
            elif not now.covers(alert.position):
                # The index was replaced by one that is not there yet.
                raise NotReady("the index is behind where an alert stands")

    def _lose(self, error: LogChanged, start: _Offsets) -> None:
        """Not those whose past begins further on: it may be there, and is read for next."""
        now = self._now()
        for alert in self._together:
            pairs = zip(self._offsets(alert.position), start, strict=True)
            if any(mine <= began for mine, began in pairs):
                alert.lose(f"log_changed: {error}", now)

    def _count(self, upto: _Offsets) -> int:
        return sum(
            sum(record.offset < end for record in self._ahead[n]) for n, end in enumerate(upto)
        )

    def _take(self, upto: _Offsets) -> "_ReplayBatch":
        taken: list[tuple[Record, IndexRecord]] = []
        for partition, end in enumerate(upto):
            ahead = self._ahead[partition]
            records = [record for record in ahead if record.offset < end]
            self._ahead[partition] = ahead[len(records) :]
            readings, _ = self._reader.read(partition, records)
            taken += zip(records, readings, strict=True)
        return _ReplayBatch(self._node, self._target, taken)

    def _found(
        self, batch: "_ReplayBatch", most: int, looks: int | None = None
    ) -> "_ReplayMatches":
        rows = QueryMatrix[Alert]()
        for alert in self._together:
            rows.put(alert, self._vectors[alert], alert.floor)
        return batch.found(rows, most, looks)

    def _now(self) -> AsOf:
        """The index's state. Raises NotReady, also when another index answers than at the start."""
        if self._node.searcher.generation != self._generation:
            raise NotReady("the index was replaced while the log was read")
        return self._node.searcher.as_of()

    def _offsets(self, state: AsOf) -> _Offsets:
        return list(state.offsets[self._target])

    def _moved(self, position: AsOf, at: _Offsets) -> AsOf:
        """The same state, moved on to `at` in this target."""
        mine = [max(*pair) for pair in zip(self._offsets(position), at, strict=True)]
        return AsOf(position.space, position.epoch, {**position.offsets, self._target: mine})


class _ReplayMatches(NamedTuple):
    """Alert, hit, and partition and offset of the hit's record; and whose was too much."""

    hits: Sequence[tuple[Alert, Hit, int, int]]
    left_out: Sequence[Alert]


class _ReplayBatch:
    """Records as a batch: of each item the newest version, and where its record stands."""

    def __init__(
        self, node: Node, target: Target, taken: Sequence[tuple[Record, IndexRecord]]
    ) -> None:
        newest = {reading.id: (record, reading) for record, reading in taken}
        self._kept = [pair for pair in newest.values() if pair[1].vector is not None]
        self._target = target
        self._topic = node.names.content(target)
        rows = [np.frombuffer(reading.vector or b"", "<f2") for _, reading in self._kept]
        vectors = np.stack(rows) if rows else np.empty((0, node.space.dim), np.float16)
        ids = [reading.id for _, reading in self._kept]
        self._batch = MatchBatch(AppliedBatch(target, ids, vectors, [], self._hit), node.matcher)

    def found(self, rows: QueryMatrix[Alert], most: int, looks: int | None) -> _ReplayMatches:
        matches = self._batch.matches(rows.now(), most, looks)
        hits = []
        for alert, number, score in matches:
            hit = self._batch.scored(number, score, with_vector=alert.query.with_vector)
            record, _ = self._kept[number]
            hits.append((alert, hit, record.partition, record.offset))
        return _ReplayMatches(hits, matches.left_out)

    def _hit(self, number: int) -> Hit:
        _, reading = self._kept[number]
        return Hit(
            self._target,
            reading.id,
            0,
            0.0,
            RecordPosition(self._topic, reading.partition, reading.offset),
            reading.item,
            reading.text,
            reading.metadata,
            np.frombuffer(reading.vector or b"", "<f2"),
        )


def _least(one: _Offsets, other: _Offsets) -> _Offsets:
    return [min(*pair) for pair in zip(one, other, strict=True)]
