"""The comparison of a new space with the active one: live ids, overlap of answers, recall."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from contracts.errors import TidelensError
from contracts.events.record import TopicPartition
from contracts.ports.event_log import EventLog
from contracts.ports.hit import VectorQuery
from contracts.ports.search import Searcher
from contracts.score import Vectors
from contracts.topics import TARGETS, Names, Target
from streams.ownership.embedding_entries import (
    IdStatesAt,
    MissingItem,
    live_ids,
    missing_items,
    read_id_states,
    read_id_states_at,
    with_reasons,
)
from tidelens.client import Client

# Missing ids that are listed one by one; all of them are counted.
LISTED = 1_000

_POLL_S = 0.2
_QUERIES_AT_ONCE = 16

Ids = Sequence[str]


@dataclass(slots=True)
class LiveIdComparison:
    """The numbers of live items in both spaces, and the ids that the new one lacks."""

    old: Counter[str] = field(default_factory=Counter)
    new: Counter[str] = field(default_factory=Counter)
    missing_count: int = 0
    missing: list[MissingItem] = field(default_factory=list)
    reasons: Counter[str] = field(default_factory=Counter)

    def add(self, found: MissingItem) -> None:
        """Count a missing item by its reason, and list it up to LISTED items."""
        self.missing_count += 1
        self.reasons[found.reason.partition(":")[0]] += 1
        if len(self.missing) < LISTED:
            self.missing.append(found)

    def wire(self) -> dict[str, Any]:
        """Return the comparison as --json prints it."""
        return {
            "items": {t: {"old": self.old[t], "new": self.new[t]} for t in TARGETS},
            "missing_count": self.missing_count,
            "missing_reasons": dict(self.reasons),
            "missing": [asdict(one) for one in self.missing],
        }


async def compare_sets(
    event_log: EventLog,
    old: Names,
    new: Names,
    partitions: Mapping[Target, int],
    *,
    encoded_wait_s: float = 60.0,
) -> LiveIdComparison:
    """Compare the live ids of both spaces, partition by partition.

    Both spaces keep an id in the same partition. They are compared at the same offset of its
    content partition, the one that the old space had reached when it was read, so records that are
    published meanwhile count for neither. Raises TidelensError if the encoders of the new space do
    not reach that offset within `encoded_wait_s` seconds, or if their partition is not read to its
    end within that time.
    """
    sets = LiveIdComparison()
    for target in TARGETS:
        for number in range(partitions[target]):
            content = TopicPartition(old.content(target), number)
            before = await read_id_states(event_log, TopicPartition(old.embeddings(target), number))
            # Encoders write in the order of content records: no result before `at` is to come.
            at = max((entry.offset + 1 for entry in before.values()), default=0)
            await _encoded(event_log, new, content, at, wait_s=encoded_wait_s)
            embeddings = TopicPartition(new.embeddings(target), number)
            after = await _read_at(event_log, embeddings, at, wait_s=encoded_wait_s)
            names = missing_items(after, before)
            sets.old[target] += len(live_ids(before))
            sets.new[target] += len(
                live_ids(after.entries) | (live_ids(before) & after.later - set(names))
            )
            # An item that only the old space still has was deleted; it is not missing. The content
            # is read only if something seems to be missing.
            published = live_ids(await read_id_states(event_log, content)) if names else set()
            for name in names:
                if name in published:
                    sets.add(with_reasons(target, name, after.entries.get(name)))
    return sets


async def _read_at(
    event_log: EventLog, partition: TopicPartition, at: int, *, wait_s: float
) -> IdStatesAt:
    try:
        async with asyncio.timeout(wait_s):
            return await read_id_states_at(event_log, partition, at)
    except TimeoutError:
        raise TidelensError(
            f"{partition.topic}-{partition.partition} was not read to its end within "
            f"{wait_s:g} s: a transaction of an encoder stays open; try again"
        ) from None


async def _encoded(
    event_log: EventLog, names: Names, content: TopicPartition, wanted: int, *, wait_s: float
) -> None:
    """Wait until the encoders of `names` have passed every content record before `wanted`."""
    try:
        async with asyncio.timeout(wait_s):
            while True:
                committed = await event_log.committed(names.encoder_group)
                if committed.get(content, 0) >= wanted:
                    return
                await asyncio.sleep(_POLL_S)
    except TimeoutError:
        raise TidelensError(
            f"space {names.space} is behind: {content.topic}-{content.partition} is encoded up to "
            f"{committed.get(content, 0)}, want {wanted}; does an encoder of it run?"
        ) from None


def overlap(before: Sequence[Ids], now: Sequence[Ids]) -> float | None:
    """Return the mean share of ids that both answers to a query have, or None if all are empty.

    The share of a query, from 0 to 1, is relative to the longer answer, so that a space does not
    look better for finding less.
    """
    shares = [
        len(set(old) & set(new)) / max(len(old), len(new))
        for old, new in zip(before, now, strict=True)
        if old or new
    ]
    return sum(shares) / len(shares) if shares else None


def recall(found: Sequence[Ids], right: Sequence[Ids]) -> float | None:
    """Return the mean share, from 0 to 1, of the `right` ids in `found`, or None without any."""
    shares = [
        len(set(ids) & set(wanted)) / len(wanted)
        for ids, wanted in zip(found, right, strict=True)
        if wanted
    ]
    return sum(shares) / len(shares) if shares else None


@dataclass(frozen=True, slots=True)
class AnswerComparison:
    """The overlap and the recall of answers by target, from 0 to 1; None if all are empty.

    The overlap compares exact answers of both spaces, and the recall compares the answers that the
    new space's index finds with its exact ones. Each of `queries` texts asked for `k` hits.
    """

    k: int
    queries: int
    overlap: dict[Target, float | None]
    recall: dict[Target, float | None]


async def compare_answers(
    client: Client,
    searcher: Searcher,
    encode: Callable[[Sequence[str]], Awaitable[Vectors]],
    texts: Sequence[str],
    k: int,
) -> AnswerComparison:
    """Search for each text in the served space and in the new one, in both targets.

    `client` asks a node of the served space, and `searcher` has the rows of the new one. `encode`
    returns vectors of the new space, of shape (texts, dim).
    """
    rows = await encode(texts) if texts else np.empty((0, 1), np.float16)
    overlaps: dict[Target, float | None] = {}
    recalls: dict[Target, float | None] = {}
    for target in TARGETS:
        old: list[Ids] = []
        exact: list[Ids] = []
        fast: list[Ids] = []
        for start in range(0, len(texts), _QUERIES_AT_ONCE):
            some = texts[start : start + _QUERIES_AT_ONCE]
            asked = [{"text": t, "target": target, "k": k, "exact": True} for t in some]
            old += [[hit["id"] for hit in one["hits"]] for one in await client.search(asked)]
            vectors = rows[start : start + _QUERIES_AT_ONCE]
            exact += await _ids(searcher, target, vectors, k, exact=True)
            fast += await _ids(searcher, target, vectors, k, exact=False)
        overlaps[target], recalls[target] = overlap(old, exact), recall(fast, exact)
    return AnswerComparison(k, len(texts), overlaps, recalls)


async def _ids(
    searcher: Searcher, target: Target, vectors: Vectors, k: int, *, exact: bool
) -> list[Ids]:
    queries = [VectorQuery(target, vector, k=k, exact=exact) for vector in vectors]
    return [[hit.id for hit in answer.hits] for answer in await searcher.search(queries)]
