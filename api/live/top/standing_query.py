"""One standing query: its list, and what those who watch it are to be told. No I/O."""

from collections.abc import Callable, Sequence
from typing import Any

from api.live.top.ranked_item import ListItem, RankedItem
from api.live.top.ranked_list import StandingList
from api.queries.prepare import PreparedQuery
from contracts.topics import Target
from contracts.wire.as_of import AsOf


class Subscriber:
    """One subscriber of a standing query, and what it is to be told.

    `wake` is called when there is something new to send, or to tell.
    """

    __slots__ = ("changed", "failed", "overtaken", "since_ms", "standing", "wake")

    def __init__(self, standing: "StandingQuery", wake: Callable[[], None]) -> None:
        self.standing = standing
        # Whether the list may differ from what was sent last.
        self.changed = False
        # Why it could not be searched.
        self.failed: Exception | None = None
        # What a search found that batches have overtaken, and the state of which it is the list.
        self.overtaken: tuple[Sequence[RankedItem], AsOf] | None = None
        # Append time of the oldest record that changed it, where that is known.
        self.since_ms: int | None = None
        self.wake = wake

    def since(self, appended_ms: int | None) -> None:
        """What was appended then changed it: remembered until that is sent."""
        if self.since_ms is None:
            self.since_ms = appended_ms

    def change(self) -> None:
        if not self.changed:
            self.changed = True
            self.wake()

    def know(self, overtaken: tuple[Sequence[RankedItem], AsOf] | None) -> None:
        """A search came to an end: look again, whatever was told."""
        self.failed, self.overtaken, self.changed = None, overtaken, False
        self.change()

    def fail(self, error: Exception) -> None:
        self.failed = error
        self.wake()


class StandingQuery:
    """One standing query, which all who ask the same watch."""

    __slots__ = ("broken", "list", "question", "settled", "watchers")

    def __init__(self, question: PreparedQuery) -> None:
        self.question = question
        self.list: StandingList[ListItem] = self.new_list()
        self.settled = False
        # Whether it cannot be searched, so that it will never be settled.
        self.broken = False
        self.watchers: list[Subscriber] = []

    def watch(self, wake: Callable[[], None]) -> Subscriber:
        """One more subscriber, to be told the list once it is known."""
        watching = Subscriber(self, wake)
        self.watchers.append(watching)
        if self.settled:
            watching.change()
        return watching

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

    def top(self) -> Sequence[RankedItem]:
        """The list itself."""
        return self.list.top()

    def since(self, appended_ms: int | None) -> None:
        """What was appended then changed it: remembered until that is sent."""
        for watching in self.watchers:
            watching.since(appended_ms)

    def change(self) -> None:
        for watching in self.watchers:
            watching.change()

    def wake(self) -> None:
        for watching in self.watchers:
            watching.wake()

    def know(self, overtaken: tuple[Sequence[RankedItem], AsOf] | None = None) -> None:
        """A search came to an end: it is settled, or at least known what it was."""
        for watching in self.watchers:
            watching.know(overtaken)

    def fail(self, error: Exception) -> None:
        for watching in self.watchers:
            watching.fail(error)
