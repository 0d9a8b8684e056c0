"""One pass over the log, which brings some alerts of one target up to the index.

It reads the embeddings of the target from the position of the alert that is furthest behind. It
ends when the alerts are at the index's state; from that turn of the event loop on they are matched
with the batches. Otherwise it ends after `pass_records_max` records.
"""

import asyncio
from collections import defaultdict
from collections.abc import Sequence

from api.live.batch_match import FILTER_EVALUATIONS_MAX, QueryMatrix
from api.live.limits import ReplayLimits
from api.live.matches.alert import Alert
from api.live.matches.alert_set import AlertSet
from api.live.matches.offsets import Offsets
from api.live.matches.replay_batch import ReplayBatch, ReplayMatches
from api.node import Node
from api.queries.prepare import resolve_query
from contracts.errors import LogChanged, NotReady, RejectedRequest
from contracts.events.record import Record, TopicPartition
from contracts.ports.event_log import LogReader
from contracts.ports.hit import Hit
from contracts.score import Vectors
from contracts.topics import Target
from contracts.wire.as_of import AsOf
from index_store.record_reader import IndexRecord, RecordReader


class ReplayPass:
    """One pass for some alerts of one target; all of them are REPLAYING."""

    def __init__(
        self, node: Node, alerts: AlertSet, taken: Sequence[Alert], limits: ReplayLimits
    ) -> None:
        self._node = node
        self._alerts = alerts
        self._limits = limits
        self._target: Target = taken[0].target
        self._alerts_read = list(taken)
        # Alerts that another pass goes on with, from where they are.
        self._set_aside: list[Alert] = []
        self._topic = node.names.embeddings(self._target)
        self._reader = RecordReader(node.space, self._target)
        self._generation = node.searcher.generation
        self._vectors: dict[Alert, Vectors] = {}
        # Records that were fetched and are not matched yet: the index has not applied them either.
        self._ahead: dict[int, list[Record]] = defaultdict(list)

    @property
    def left(self) -> list[Alert]:
        """The alerts that are not live yet. One that went live may be in another pass by now."""
        return self._set_aside + self._alerts_read

    async def run(self) -> None:
        """Read until the alerts are live or the pass has read its limit of records.

        `left` then has the alerts that are not live. Raises NotReady and BrokerUnavailable.
        """
        self._reset_foreign()
        await self._resolve_vectors()
        if not self._alerts_read:
            return
        start = self._offsets(self._alerts_read[0].position)
        for alert in self._alerts_read:
            start = start.least(self._offsets(alert.position))
        if self._go_live(start):
            return
        try:
            reader = await self._node.log.tail(
                {TopicPartition(self._topic, n): offset for n, offset in enumerate(start)}
            )
            try:
                await self._read(reader, start)
            finally:
                await reader.close()
        except LogChanged as error:
            self._reset_lost(error, start)

    def _reset_foreign(self) -> None:
        """Reset the alerts whose position is of another log: its records cannot be read.

        Raises NotReady if the index was replaced by one that is behind an alert's position.
        """
        now = self._now()
        for alert in self._alerts_read:
            if alert.position.epoch != now.epoch:
                alert.reset_to(now, "epoch_changed: the log was created again")
            elif not now.covers(alert.position):
                raise NotReady("the index is behind the position of an alert")

    def _reset_lost(self, error: LogChanged, start: Offsets) -> None:
        """Reset the alerts that need the records at `start`, which the log no longer has.

        The past of the others begins later: it may be there, and is read next.
        """
        now = self._now()
        for alert in self._alerts_read:
            pairs = zip(self._offsets(alert.position), start, strict=True)
            if any(mine <= began for mine, began in pairs):
                alert.reset_to(now, f"log_changed: {error}")

    async def _resolve_vectors(self) -> None:
        for alert in list(self._alerts_read):
            alert.has_stale_vector = False
            try:
                resolved = await resolve_query(self._node.searcher, alert.query)
                self._vectors[alert] = resolved.vector
            except RejectedRequest as refused:
                # Only this alert fails: its item is gone, or the sum of its items has no direction.
                self._alerts_read.remove(alert)
                if alert in self._alerts:
                    alert.fail(refused)

    async def _read(self, reader: LogReader, at: Offsets) -> None:
        share = self._limits.pass_records_max
        while share > 0 and self._alerts_read:
            fetched = await reader.fetch(
                records_max=self._limits.fetch_records_max, timeout_ms=self._limits.fetch_ms
            )
            for read, records in fetched.records.items():
                self._ahead[read.partition] += records
            share -= max(1, sum(map(len, fetched.records.values())))
            ends = Offsets(
                fetched.positions[TopicPartition(self._topic, n)] for n in range(len(at))
            )
            at = await self._match_in_thread(ends, at)
            if not self._alerts_read:
                return
            # What the index applied meanwhile may have been fetched already. If it is little, match
            # it in this turn of the event loop, so that nothing can come between that and going
            # live.
            end = ends.least(self._offsets(self._now()))
            if self._count(end) <= self._limits.inline_records_max:
                limit = self._limits.inline_matches_max
                matches = self._match(self._take(end), limit, FILTER_EVALUATIONS_MAX)
                at = self._deliver(matches, at, end)
                if self._go_live(at):
                    return

    async def _match_in_thread(self, ends: Offsets, at: Offsets) -> Offsets:
        """Match the records that the index has applied too, if they are many.

        Returns the position up to which records have been matched.
        """
        end = ends.least(self._offsets(self._now()))
        if self._count(end) <= self._limits.inline_records_max:
            return at
        batch = self._take(end)
        matches = await asyncio.to_thread(self._match, batch, self._limits.matches_max)
        return self._deliver(matches, at, end)

    def _match(
        self, batch: ReplayBatch, matches_max: int, evaluations_max: int | None = None
    ) -> ReplayMatches:
        matrix = QueryMatrix[Alert]()
        for alert in self._alerts_read:
            matrix.put(alert, self._vectors[alert], alert.floor)
        return batch.match(matrix, matches_max, evaluations_max)

    def _deliver(self, matches: ReplayMatches, at: Offsets, end: Offsets) -> Offsets:
        """Give each alert its matches, and return the position up to which all have theirs."""
        hits: dict[Alert, list[Hit]] = {}
        for alert in matches.left_out:
            self._leave_for_another_pass(alert)
        for alert, hit, partition, offset in matches.hits:
            if offset >= alert.position.offsets[self._target][partition]:
                hits.setdefault(alert, []).append(hit)
        at = at.advance_to(end)
        for alert in list(self._alerts_read):
            alert.add(hits.get(alert, []), self._advanced(alert.position, at))
            if alert.is_full or alert not in self._alerts:
                self._leave_for_another_pass(alert)
        return at

    def _leave_for_another_pass(self, alert: Alert) -> None:
        self._alerts_read.remove(alert)
        self._set_aside.append(alert)

    def _go_live(self, at: Offsets) -> bool:
        """Make the alerts live that are at the index's state, if `at` is that state.

        Returns whether this pass has nothing more to do: all alerts are live or removed, or the
        vector of one must be looked up again.
        """
        now = self._now()
        if self._offsets(now) != at:
            return False
        left = []
        for alert in self._alerts_read:
            if alert not in self._alerts:
                continue
            if not alert.has_stale_vector and self._offsets(alert.position) == at:
                self._alerts.go_live(alert, self._vectors[alert], now)
            else:
                left.append(alert)
        self._alerts_read = left
        return not left or any(alert.has_stale_vector for alert in left)

    def _count(self, end: Offsets) -> int:
        """Return how many fetched records lie before `end`."""
        return sum(
            sum(record.offset < offset for record in self._ahead[n]) for n, offset in enumerate(end)
        )

    def _take(self, end: Offsets) -> ReplayBatch:
        """Take the fetched records before `end`."""
        taken: list[tuple[Record, IndexRecord]] = []
        for partition, offset in enumerate(end):
            ahead = self._ahead[partition]
            records = [record for record in ahead if record.offset < offset]
            self._ahead[partition] = ahead[len(records) :]
            readings, _ = self._reader.read(partition, records)
            taken += zip(records, readings, strict=True)
        return ReplayBatch(self._node, self._target, taken)

    def _now(self) -> AsOf:
        """Return the index's state. Raises NotReady, also if the index has been replaced."""
        if self._node.searcher.generation != self._generation:
            raise NotReady("the index was replaced while the log was read")
        return self._node.searcher.as_of()

    def _offsets(self, state: AsOf) -> Offsets:
        return Offsets(state.offsets[self._target])

    def _advanced(self, position: AsOf, at: Offsets) -> AsOf:
        """Return the position, advanced to `at` in this pass's target."""
        offsets = list(self._offsets(position).advance_to(at))
        return AsOf(position.space, position.epoch, {**position.offsets, self._target: offsets})
