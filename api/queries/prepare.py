"""Prepare queries of the wire for a search: encode texts and pictures, and look up items.

A query is prepared once: its texts and pictures are encoded, its vectors are checked. Vectors of
items that it names by `id` are looked up for every search, so that a standing query follows them.
"""

import asyncio
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from api.http.time_slices import TimeSlice
from api.node import Node
from api.queries.query_picture import query_picture
from contracts.errors import RejectedRequest
from contracts.events.record import RecordPosition
from contracts.filters.json_form import Filter
from contracts.fusion import weighted_sum
from contracts.ports.hit import VectorQuery
from contracts.ports.search import Answer, Searcher
from contracts.score import Vectors, unit
from contracts.topics import Target
from contracts.wire.client_messages import Classify, FusePart, Included, Query


class ItemRef(NamedTuple):
    """An indexed item whose vector a query uses."""

    target: Target
    id: str


@dataclass(frozen=True, slots=True)
class _Summand:
    """One summand of a query's vector: a vector, or an item whose vector is looked up."""

    weight: float
    vector: Vectors | None = None
    item: ItemRef | None = None


@dataclass(frozen=True, slots=True)
class PreparedQuery:
    """A query whose texts and pictures are encoded; `vector` takes the vectors of its items."""

    target: Target
    parts: Sequence[_Summand]
    fused: bool = False
    k: int = 10
    offset: int = 0
    min_score: float | None = None
    exact: bool = False
    collapse: bool = False
    include: Sequence[Included] = ()
    filter: Filter | None = None

    def vectors_digest(self) -> str:
        """Return a digest of the encoded vectors.

        It differs when a reference, which is equal in two queries, leads to another picture.
        """
        found = hashlib.blake2b(digest_size=12)
        for part in self.parts:
            if part.vector is not None:
                found.update(part.vector.tobytes())
        return found.hexdigest()

    @property
    def with_vector(self) -> bool:
        """Return whether its hits include their vectors, as numbers or in base64."""
        return bool(self.include)

    @property
    def items(self) -> list[ItemRef]:
        """The items whose vectors the query uses."""
        return [part.item for part in self.parts if part.item is not None]

    def vector(self, items: Mapping[ItemRef, Vectors]) -> Vectors:
        """Return the unit vector to search with, (dim,) float16.

        Raises RejectedRequest if the sum of a fused query is zero.
        """
        rows = [_summand_vector(part, items) for part in self.parts]
        if not self.fused:
            return rows[0]
        with _zero_vector_refused("fuse"):
            return unit(weighted_sum([part.weight for part in self.parts], rows))

    def vector_query(self, vector: Vectors, *, exact: bool) -> VectorQuery:
        """Return the query of the search port for `vector`, (dim,) float16."""
        return VectorQuery(
            target=self.target,
            vector=vector,
            k=self.k,
            offset=self.offset,
            min_score=self.min_score,
            exact=exact or self.exact,
            collapse=self.collapse,
            with_vector=self.with_vector,
            filter=self.filter,
        )


class ItemGone(RejectedRequest):
    """The error for an item that a query uses and the index does not have."""

    def __init__(self, item: ItemRef) -> None:
        super().__init__(
            "item_not_found",
            f"id: no item {item.id!r} in {item.target}",
            status=404,
            field="id",
            value=item.id,
        )


async def prepare_query(
    node: Node, query: Query, pace: TimeSlice, pictures: asyncio.Semaphore | None = None
) -> PreparedQuery:
    """Check the limits of a query, and encode its texts and pictures.

    `pace` are the time slices of the request. `pictures` is the semaphore that the queries of one
    request share (picture_semaphore); with None, the query has one of its own. Raises
    RejectedRequest, NotReady, and RejectedRecord for a picture that cannot be read or decoded.
    """
    _check(node, query)
    parts = query.fuse if query.fuse is not None else [query]
    # All at once, so that the encoder takes them as one batch.
    turns = pictures or picture_semaphore(node)
    prepared = await asyncio.gather(*(_prepared(node, part, pace, turns) for part in parts))
    return PreparedQuery(
        target=query.target,
        parts=prepared,
        fused=query.fuse is not None,
        k=query.k,
        offset=query.offset,
        min_score=query.min_score,
        exact=query.exact,
        collapse=query.collapse == "item",
        include=query.include,
        filter=query.parsed_filter,
    )


def _check(node: Node, query: Query) -> None:
    limit = node.settings.k_max
    wanted = query.k + query.offset
    if wanted > limit:
        raise RejectedRequest.over("too_many", limit, wanted, field="k", name="k + offset")


async def content_vector(node: Node, asked: Classify) -> Vectors:
    """Return the vector of a text, a picture or an item, (dim,) float16.

    Raises ItemGone, and what `prepare_query` raises.
    """
    part = await _prepared(node, asked, TimeSlice(), picture_semaphore(node))
    if part.item is None:
        return _summand_vector(part, {})
    found = await node.searcher.item(*part.item)
    if found is None or found.vector is None:
        raise ItemGone(part.item)
    return found.vector


def picture_semaphore(node: Node) -> asyncio.Semaphore:
    """Return the semaphore that bounds how many pictures one request encodes at a time."""
    return asyncio.Semaphore(node.settings.query_pictures_at_once)


async def _prepared(
    node: Node, part: Query | FusePart | Classify, pace: TimeSlice, pictures: asyncio.Semaphore
) -> _Summand:
    weight = part.weight if isinstance(part, FusePart) else 1.0
    if part.id is not None:
        assert part.of is not None
        return _Summand(weight, item=ItemRef(part.of, part.id))
    if part.text is not None:
        # A text to classify is content, not a query.
        encode = node.queries.text if isinstance(part, Classify) else node.queries.query
        return _Summand(weight, await encode(part.text))
    if part.image is not None:
        async with pictures:
            async with query_picture(node, part.image) as data:
                pass
            # References have few permits for memory; from here on the queue of pictures counts it.
            return _Summand(weight, await node.queries.image(data))
    assert part.vector is not None
    await pace.yield_when_over()
    return _Summand(weight, _checked_vector(node, part.vector))


def _checked_vector(node: Node, vector: Sequence[float]) -> Vectors:
    dim = node.space.dim
    if len(vector) != dim:
        raise RejectedRequest(
            "wrong_dimension",
            f"vector: space {node.space.name} has {dim} dimensions, got {len(vector)}",
            field="vector",
            limit=dim,
            value=len(vector),
        )
    with _zero_vector_refused("vector"):
        return unit(np.asarray(vector, dtype=np.float64))


@contextmanager
def _zero_vector_refused(field: str) -> Iterator[None]:
    """Report a vector of length zero, which has no direction, as an error of `field`."""
    try:
        yield
    except ValueError as error:
        raise RejectedRequest("zero_vector", f"{field}: {error}", field=field) from None


def _summand_vector(part: _Summand, items: Mapping[ItemRef, Vectors]) -> Vectors:
    if part.vector is not None:
        return part.vector
    assert part.item is not None
    return items[part.item]


# The source of each item: another version of an item has another source.
Versions = dict[ItemRef, RecordPosition]


@dataclass(frozen=True, slots=True)
class ResolvedQuery:
    """A query's vector, (dim,) float16, with the versions of the items it was computed from.

    `epoch` is that of the log at that time, or None if the query uses no item.
    """

    question: PreparedQuery
    vector: Vectors
    versions: Versions
    epoch: str | None

    async def is_still_valid(self, searcher: Searcher) -> bool:
        """Return whether none of its items has changed."""
        # Offsets of another log begin at 0 again, so an equal version may be another record.
        if self.epoch is not None and searcher.as_of().epoch != self.epoch:
            return False
        for item, version in self.versions.items():
            found = await searcher.item(*item)
            if found is None or found.source != version:
                return False
        return True


async def resolve_query(searcher: Searcher, question: PreparedQuery) -> ResolvedQuery:
    """Look up the query's items, and return its vector. Raises ItemGone."""
    vectors: dict[ItemRef, Vectors] = {}
    versions: Versions = {}
    epoch = searcher.as_of().epoch if question.items else None
    for item in question.items:
        found = await searcher.item(*item)
        if found is None or found.vector is None:
            raise ItemGone(item)
        vectors[item] = found.vector
        versions[item] = found.source
    return ResolvedQuery(question, question.vector(vectors), versions, epoch)


async def search_consistently(
    searcher: Searcher, questions: Sequence[PreparedQuery]
) -> list[Answer]:
    """Return an answer to each query, all from one view in which the used items are unchanged.

    Raises ItemGone, NotReady, and RejectedRequest if the sum of a fused query is zero.
    """
    while True:
        asked = [await resolve_query(searcher, question) for question in questions]
        answers = await searcher.search(
            [one.question.vector_query(one.vector, exact=False) for one in asked]
        )
        # An item that is equal before and after the search was also equal in the search's view.
        if all([await one.is_still_valid(searcher) for one in asked]):
            return answers
