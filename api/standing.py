"""One standing query: its list, and what its owner is to be told. No I/O."""

from collections.abc import Callable, Sequence

import numpy as np

from api.lists import StandingList
from api.queries import Question
from contracts.hits import Hit
from contracts.ports import AsOf
from contracts.score import Vectors
from contracts.topics import Target


class Standing:
    """One standing query. `wake` is called when there is something new to send, or to tell."""

    def __init__(self, question: Question, wake: Callable[[], None]) -> None:
        self.question = question
        # An item's other rows are not among what a search with `collapse` returns.
        self.list = StandingList(question.k, question.k if question.collapse else None)
        self.settled = False
        # Whether the list may differ from what was sent last.
        self.changed = False
        # Why it could not be searched.
        self.failed: Exception | None = None
        # What a search found that batches have overtaken, and the state of which it is the list.
        self.overtaken: tuple[Sequence[Hit], AsOf] | None = None
        # Append time of the oldest record that changed it, where that is known.
        self.since_ms: int | None = None
        self._wake = wake
        self._vector: Vectors | None = None

    @property
    def target(self) -> Target:
        return self.question.target

    @property
    def vector(self) -> Vectors:
        assert self._vector is not None, "want a settled standing query, got one never searched"
        return self._vector

    @property
    def follows(self) -> bool:
        """Whether its list can follow batches without a search."""
        return not self.question.collapse

    @property
    def floor(self) -> float:
        """The lowest score that can be of use."""
        least = self.question.min_score
        return max(self.list.floor, -np.inf if least is None else least)

    def found(self, vector: Vectors, hits: Sequence[Hit]) -> None:
        """Take over what a search with `vector` returned."""
        self._vector = vector
        self.list.fill(hits)

    def change(self, since_ms: int | None) -> None:
        if self.since_ms is None:
            self.since_ms = since_ms
        if not self.changed:
            self.changed = True
            self._wake()

    def fail(self, error: Exception) -> None:
        self.failed = error
        self._wake()
