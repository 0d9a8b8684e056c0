"""The oracle of live lists: every state that the embeddings topics were ever in, searched exactly.

All records are kept, each with its offset. The state that a cursor names is thus the last record of
each id below the cursor's offsets.
"""

import asyncio
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from contracts.events.embedding_record import read_embedding
from contracts.events.record import Fetched, Positions, Record, RecordPosition, TopicPartition
from contracts.filters.json_form import parse
from contracts.ports.hit import Hit, VectorQuery
from contracts.score import Vectors, unit
from contracts.testing.encoder import HashEncoder
from contracts.topics import TARGETS, Names, Target
from contracts.wire.as_of import AsOf
from contracts.wire.delta import WireHit
from contracts.wire.message_json import wire_hit
from tests.kits.api_kit import Items, brute

ENCODER = HashEncoder()
Query = Mapping[str, Any]


class Violation(AssertionError):
    """A server broke a promise of docs/live.md."""


class ItemRef(NamedTuple):
    """An item whose vector a query uses."""

    target: Target
    id: str


@dataclass
class _Versions:
    """All records of one id, in the order of their offsets; a tombstone's hit is None."""

    partition: int
    offsets: list[int] = field(default_factory=list)
    hits: list[Hit | None] = field(default_factory=list)

    def below(self, offset: int) -> Hit | None:
        count = bisect_left(self.offsets, offset)
        return self.hits[count - 1] if count else None


class History:
    """The embeddings topics as far as they were read, and every state before that."""

    def __init__(self, names: Names, partitions: int) -> None:
        self.names = names
        self.positions: dict[TopicPartition, int] = {
            TopicPartition(names.embeddings(target), number): 0
            for target in TARGETS
            for number in range(partitions)
        }
        self._versions: dict[ItemRef, _Versions] = {}
        self._grown = asyncio.Condition()
        self.items_at = lru_cache(maxsize=64)(self._items_at)

    async def take(self, fetched: Fetched) -> None:
        """Take records that follow those taken before."""
        for partition, records in fetched.records.items():
            target = self.names.target_of(partition.topic)
            assert target is not None
            for record in records:
                self._take(target, record)
        async with self._grown:
            self.positions.update(fetched.positions)
            self._grown.notify_all()

    def _take(self, target: Target, record: Record) -> None:
        one = read_embedding(ENCODER.space, record)
        hit = None
        if one.vector is not None:
            topic, source = self.names.content(target), one.source
            position = RecordPosition(topic, source.partition, source.offset)
            fields = (one.item, one.text, one.metadata, one.vector)
            hit = Hit(target, one.id, 0, 0.0, position, *fields)
        found = self._versions.setdefault(ItemRef(target, one.id), _Versions(record.partition))
        assert not found.offsets or found.offsets[-1] < record.offset, f"read twice: {record}"
        found.offsets.append(record.offset)
        found.hits.append(hit)

    async def reach(self, positions: Positions, *, within_s: float | None = None) -> None:
        """Return once everything below `positions` was read. Raises TimeoutError."""
        async with asyncio.timeout(within_s), self._grown:
            await self._grown.wait_for(
                lambda: all(self.positions[tp] >= offset for tp, offset in positions.items())
            )

    def positions_of(self, as_of: AsOf) -> dict[TopicPartition, int]:
        """Return the offsets of a cursor by partition."""
        return {
            TopicPartition(self.names.embeddings(target), number): offset
            for target, offsets in as_of.offsets.items()
            for number, offset in enumerate(offsets)
        }

    def list_at(self, query: Query, positions: Positions) -> list[WireHit] | None:
        """Return the exact list as sent, or None if an item that the query uses is missing."""
        return exact_list(self.items_at(tuple(sorted(positions.items()))), query)

    def _items_at(self, positions: Sequence[tuple[TopicPartition, int]]) -> Items:
        ends = dict(positions)
        topics = {target: self.names.embeddings(target) for target in TARGETS}
        found: Items = {}
        for ref, versions in self._versions.items():
            hit = versions.below(ends[TopicPartition(topics[ref.target], versions.partition)])
            if hit is not None:
                found[ref] = hit
        return found

    def matching(
        self, query: Query, start: Positions, end: Positions
    ) -> list[tuple[str, int, int]]:
        """Return what mode `matches` must have sent between two states, as id and source position.

        This is the newest version of each item below `end`, unless it is below `start`.
        """
        newest: Items = {}
        for ref, versions in self._versions.items():
            if ref.target != query["target"]:
                continue
            partition = TopicPartition(self.names.embeddings(ref.target), versions.partition)
            number = bisect_left(versions.offsets, end[partition]) - 1
            if number >= 0 and versions.offsets[number] >= start[partition]:
                hit = versions.hits[number]
                if hit is not None:
                    newest[ref] = hit
        found = exact_list(newest, {**query, "k": len(newest) + 1}) or []
        return [(one["id"], one["source"]["partition"], one["source"]["offset"]) for one in found]

    def match(self, query: Query, version: tuple[str, int, int]) -> tuple[int, WireHit] | None:
        """Return a version's offset and wire form, or None if it does not match or was not read."""
        item_id, partition, offset = version
        ref = ItemRef(query["target"], item_id)
        versions = self._versions.get(ref)
        if versions is None:
            return None
        for at, hit in zip(versions.offsets, versions.hits, strict=True):
            if hit is not None and hit.source[1:] == (partition, offset):
                found = exact_list({ref: hit}, {**query, "k": 1})
                return (at, {**found[0], "rank": 0}) if found else None
        return None

    def partition_of(self, query: Query, item_id: str) -> TopicPartition:
        """Return the partition that holds the records of an item, which was read before."""
        target: Target = query["target"]
        partition = self._versions[ItemRef(target, item_id)].partition
        return TopicPartition(self.names.embeddings(target), partition)

    def was_missing(self, ref: ItemRef, since: Positions | None) -> bool:
        """Return whether the item is missing in a state at or after `since`."""
        versions = self._versions.get(ref)
        if versions is None or since is None:
            return True
        start = since[TopicPartition(self.names.embeddings(ref.target), versions.partition)]
        later = versions.hits[bisect_left(versions.offsets, start) :]
        return versions.below(start) is None or None in later


def items_asked(query: Query) -> list[ItemRef]:
    """Return the items whose vectors the query uses."""
    parts = query.get("fuse", [query])
    return [ItemRef(part["of"], part["id"]) for part in parts if "id" in part]


def exact_list(items: Items, query: Query) -> list[WireHit] | None:
    """Score everything exactly, sort and cut it; None if an item that the query uses is missing."""
    if any(ref not in items for ref in items_asked(query)):
        return None
    vector_query = VectorQuery(
        query["target"],
        _vector(items, query),
        k=query["k"],
        min_score=query.get("min_score"),
        collapse=query.get("collapse") == "item",
        with_vector="include" in query,
        filter=parse(query["filter"]) if "filter" in query else None,
    )
    return [wire_hit(hit) for hit in brute(items, vector_query)]


def _vector(items: Items, query: Query) -> Vectors:
    if "fuse" not in query:
        return _part(items, query)
    parts = query["fuse"]
    return unit(sum(part["weight"] * _part(items, part).astype(np.float64) for part in parts))


def _part(items: Items, part: Query) -> Vectors:
    if "id" in part:
        vector = items[part["of"], part["id"]].vector
        assert vector is not None
        return vector
    if "vector" in part:
        return unit(part["vector"])
    return text_vector(part["text"])


@lru_cache(maxsize=4096)
def text_vector(text: str) -> Vectors:
    """Return the vector that the encoder and the query encoder compute for a text."""
    return ENCODER.encode_texts([text])[0]
