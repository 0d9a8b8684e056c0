"""Records of the log as one batch, to be matched with alerts. No I/O."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from api.live.batch_match import MatchBatch, QueryMatrix
from api.live.matches.alert import Alert
from api.node import Node
from contracts.events.record import Record, RecordPosition
from contracts.ports.hit import Hit
from contracts.ports.search import AppliedBatch
from contracts.topics import Target
from index_store.record_reader import IndexRecord


@dataclass(frozen=True, slots=True)
class ReplayMatches:
    """The matches of one batch of records."""

    # Alert and hit, with the partition and the offset of the hit's record.
    hits: Sequence[tuple[Alert, Hit, int, int]]
    # Alerts that had too many matches, or whose filters would have taken too long.
    left_out: Sequence[Alert]


class ReplayBatch:
    """The newest version of each item among some records, with its record.

    `taken` holds the records in their order, each with its content as the index reads it. An item
    whose newest record has no vector, such as a deletion, is left out.
    """

    def __init__(
        self, node: Node, target: Target, taken: Sequence[tuple[Record, IndexRecord]]
    ) -> None:
        newest = {reading.id: (record, reading) for record, reading in taken}
        self._newest = [pair for pair in newest.values() if pair[1].vector is not None]
        self._target = target
        self._topic = node.names.content(target)
        rows = [np.frombuffer(reading.vector or b"", "<f2") for _, reading in self._newest]
        vectors = np.stack(rows) if rows else np.empty((0, node.space.dim), np.float16)
        ids = [reading.id for _, reading in self._newest]
        self._batch = MatchBatch(AppliedBatch(target, ids, vectors, [], self._hit), node.matcher)

    def match(
        self, matrix: QueryMatrix[Alert], matches_max: int, evaluations_max: int | None
    ) -> ReplayMatches:
        """Match the items with alerts.

        If that would be more than `matches_max` pairs, the alerts with the most pairs are left out.
        If filters would be evaluated more than about `evaluations_max` times (None: no limit), the
        last alerts are left out.
        """
        matches = self._batch.matches(matrix.view(), matches_max, evaluations_max)
        hits = []
        for alert, number, score in matches:
            hit = self._batch.scored(number, score, with_vector=alert.query.with_vector)
            record, _ = self._newest[number]
            hits.append((alert, hit, record.partition, record.offset))
        return ReplayMatches(hits, matches.left_out)

    def _hit(self, number: int) -> Hit:
        _, reading = self._newest[number]
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
