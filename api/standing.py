"""One standing query: its list, and what its owner is to be told. No I/O."""

from collections.abc import Callable, Sequence
from typing import Any

from api.item import Item
from api.lists import StandingList
from api.queries import Question
from contracts.hits import Hit
from contracts.ports import AsOf
from contracts.topics import Target


class Standing:
    """One standing query. `wake` is called when there is something new to send, or to tell."""

    __slots__ = (
        "_wake",
        "changed",
        "failed",
        "list",
        "overtaken",
        "question",
        "settled",
        "since_ms",
    )

    def __init__(self, question: Question, wake: Callable[[], None]) -> None:
        self.question = question
        self.list: StandingList[Item] = self.new_list()
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

    @property
    def target(self) -> Target:
        return self.question.target

    @property
    def follows(self) -> bool:
        """Whether its list can follow batches without a search."""
        return not self.question.collapse

    def new_list(self) -> StandingList[Any]:
        """An empty one for this question."""
        asked = self.question
        # An item's other rows are not among what a search with `collapse` returns.
        return StandingList(asked.k, asked.k if asked.collapse else None, asked.min_score)

    def top(self) -> list[Hit]:
        """The list as hits."""
        with_vector = self.question.with_vector
        return [
            item.hit(rank, score, with_vector=with_vector)
            for rank, (score, item) in enumerate(self.list.top(), start=1)
        ]

    def change(self, since_ms: int | None) -> None:
        if self.since_ms is None:
            self.since_ms = since_ms
        if not self.changed:
            self.changed = True
            self._wake()

    def fail(self, error: Exception) -> None:
        self.failed = error
        self._wake()
