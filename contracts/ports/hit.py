"""The query and the hits of a vector search, as the rooms pass them to each other."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from contracts.events.record import RecordPosition
from contracts.filters.json_form import Filter
from contracts.score import Vectors
from contracts.topics import Target


@dataclass(frozen=True, slots=True)
class VectorQuery:
    """A query whose text or picture has been encoded: `vector` is a float16 unit vector (dim,).

    It asks for the best `k` items, after `offset` better ones, that score `min_score` or more and
    pass `filter`. `exact` searches all rows, without an ANN index. With `collapse`, only the best
    hit of each `item` is returned; with `with_vector`, hits have their vectors.
    """

    target: Target
    vector: Vectors
    k: int = 10
    offset: int = 0
    min_score: float | None = None
    exact: bool = False
    collapse: bool = False
    with_vector: bool = False
    filter: Filter | None = None


# Not frozen, since that would cost a microsecond for each hit.
@dataclass(slots=True)
class Hit:
    """An item in a result list. `rank` counts from 1; `score` is computed by contracts.score.

    A hit is never changed after it was made.
    """

    target: Target
    id: str
    rank: int
    score: float
    source: RecordPosition
    item: str | None = None
    text: str | None = None
    metadata: Mapping[str, Any] | None = None
    vector: Vectors | None = None
