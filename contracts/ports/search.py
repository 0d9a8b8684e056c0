"""The ports of search: answers from an index, its progress, and the batches applied to it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from contracts.filters.nodes import Filter
from contracts.filters.warnings import FilterWarning
from contracts.ports.hit import Hit, VectorQuery
from contracts.score import Vectors
from contracts.topics import Target
from contracts.wire.as_of import AsOf


@dataclass(frozen=True, slots=True)
class Answer:
    """The hits of one query, the state that they belong to, and warnings about its filter.

    Hits may be built while they are iterated, so iterate once.
    """

    hits: Sequence[Hit]
    as_of: AsOf
    warnings: Sequence[FilterWarning] = ()


class Searcher(Protocol):
    """A searcher that answers vector queries, each list of them from one consistent state.

    `generation` changes when another index answers. While it stays the same, every state follows
    from the one before by the batches that AppliedBatches reports.
    """

    @property
    def generation(self) -> int: ...

    async def search(self, queries: Sequence[VectorQuery]) -> list[Answer]:
        """Return the answers in order, all from the same view. Raises NotReady."""
        ...

    async def warnings(self, target: Target, condition: Filter) -> Sequence[FilterWarning]:
        """Return warnings about what a filter names and no item has. Raises NotReady."""
        ...

    async def item(self, target: Target, item_id: str) -> Hit | None:
        """Return an item as it is indexed now, or None if it is not; rank and score are 0.

        The hit has its vector. Raises NotReady.
        """
        ...

    def as_of(self) -> AsOf:
        """Return the state of the current view. Raises NotReady."""
        ...


class IndexProgress(Protocol):
    """The progress of an index, measured by the content records that it has applied."""

    def highest_source(self, target: Target, partition: int) -> int:
        """Return the highest content offset whose vector or tombstone was applied; -1: none."""
        ...

    def rejection_reason(self, target: Target, partition: int, offset: int) -> str | None:
        """Return why a content record became a dead letter; None if it did not, or long ago."""
        ...

    def count(self, target: Target) -> int:
        """Return the number of live items."""
        ...


@dataclass(frozen=True, slots=True)
class AppliedBatch:
    """The changes that one batch made to a target: ids that were put in, and ids taken out.

    An id is in one of the two, as its last record in the batch says. `vectors` (n, dim) has a row
    for each id in `upserted`, and `hit(n)` is the n-th of them as a hit with its vector.
    `appended_ms` is the append time of the oldest content record in the batch, in milliseconds
    since 1970, if it is known.
    """

    target: Target
    upserted: Sequence[str]
    vectors: Vectors
    removed: Sequence[str]
    hit: Callable[[int], Hit]
    appended_ms: int | None = None


class AppliedBatches(Protocol):
    """A feed of the batches that are applied to an index.

    Listeners are called in the turn of the event loop in which the new view becomes current. So
    code on the loop that reads the Searcher has already received all batches that its view holds.
    """

    def listen(self, listener: Callable[[Sequence[AppliedBatch]], None]) -> Callable[[], None]:
        """Call `listener` on the event loop after each batch. Return a function that stops it."""
        ...


class Matcher(Protocol):
    """A matcher, which nominates the pairs of a query and a vector that may reach a floor."""

    def nominate(
        self, queries: NDArray[np.float32], floors: NDArray[np.float64], vectors: Vectors
    ) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        """Return pairs of rows of `queries` (q, d) and of `vectors` (n, d), as two index arrays.

        Every pair whose score reaches the query's floor (q,) is among them; others may be too.
        """
        ...
