"""What a search takes and gives inside the house: a vector in, hits out."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from contracts.events.record import RecordPosition
from contracts.filters.json_form import Filter
from contracts.score import Vectors
from contracts.topics import Target


@dataclass(frozen=True, slots=True)
class VectorQuery:
    """One query after its text or image became `vector` (dim,), float16, unit length."""

    target: Target
    vector: Vectors
    k: int = 10
    offset: int = 0
    min_score: float | None = None
    exact: bool = False
    collapse: bool = False
    with_vector: bool = False
    filter: Filter | None = None


# Not frozen: that would take a microsecond of each, ten for a search of two hundred.
@dataclass(slots=True)
class Hit:
    """One item in a result list. `rank` counts from 1; `score` is contracts.score's number.

    Made once and never changed.
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
