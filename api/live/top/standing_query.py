"""One standing query: its list, the state of that list, and its subscribers. No I/O.

A list is current while it is what an exact search at the present state would return. The steps are
those of `StandingQuerySet` (api.live.top.standing_set):

| State     | Step                                                           | Next      |
|-----------|----------------------------------------------------------------|-----------|
| NEW       | `add`                                                          | DUE       |
| DUE       | `take_due`: a search begins                                    | SEARCHING |
| SEARCHING | `complete_refill`: all batches since the search began applied  | CURRENT   |
| SEARCHING | `complete_refill`: one of these batches could not be applied   | DUE       |
| SEARCHING | `requeue`: the search was not answered                         | DUE       |
| SEARCHING | the item that gives the query's vector changed                 | DUE       |
| CURRENT   | a batch that the list cannot follow without a search           | DUE       |
| SEARCHING, CURRENT | `invalidate_all`: the index went to an unrelated state | DUE      |
| DUE, SEARCHING | `fail`: the query cannot be searched                      | FAILED    |
| any but NEW | `remove`                                                     | REMOVED   |

FAILED stays until the subscribers have left. A step that is not in the table raises WrongStep.
"""

import enum
from collections.abc import Callable, Sequence
from typing import Any

from api.live.limits import ListLimits
from api.live.top.ranked_item import ListItem, RankedItem
from api.live.top.ranked_list import StandingList
from api.queries.prepare import PreparedQuery
from contracts.topics import Target
from contracts.wire.as_of import AsOf
from contracts.wrong_step import require_state

_DEFAULT_LIMITS = ListLimits()


class QueryState(enum.Enum):
    """The state of a standing query's list."""

    NEW = "new"
    DUE = "due"
    SEARCHING = "searching"
    CURRENT = "current"
    FAILED = "failed"
    REMOVED = "removed"


# The states from which each state may be reached.
_BEFORE = {
    QueryState.DUE: (QueryState.NEW, QueryState.SEARCHING, QueryState.CURRENT),
    QueryState.SEARCHING: (QueryState.DUE,),
    QueryState.CURRENT: (QueryState.SEARCHING,),
    QueryState.FAILED: (QueryState.DUE, QueryState.SEARCHING),
    QueryState.REMOVED: (
        QueryState.DUE,
        QueryState.SEARCHING,
        QueryState.CURRENT,
        QueryState.FAILED,
    ),
}


class Subscriber:
    """One subscription to a standing query, with what it has still to be sent.

    `wake` is called when there is something new to send.
    """

    __slots__ = ("changed_since_ms", "error", "fallback", "has_changed", "standing_query", "wake")

    def __init__(self, standing_query: "StandingQuery", wake: Callable[[], None]) -> None:
        self.standing_query = standing_query
        # The list may differ from what was sent last.
        self.has_changed = False
        # The reason why the query could not be searched.
        self.error: Exception | None = None
        # A list that a search returned and batches have overtaken, with the state of that search.
        self.fallback: tuple[Sequence[RankedItem], AsOf] | None = None
        # The append time of the oldest record that changed the list, in milliseconds since 1970.
        self.changed_since_ms: int | None = None
        self.wake = wake

    def note_change_time(self, appended_ms: int | None) -> None:
        """Remember the append time of the oldest change until that change is sent."""
        if self.changed_since_ms is None:
            self.changed_since_ms = appended_ms

    def notify_changed(self) -> None:
        """Wake the subscriber, unless it was woken for an earlier change."""
        if not self.has_changed:
            self.has_changed = True
            self.wake()

    def notify_searched(self, fallback: tuple[Sequence[RankedItem], AsOf] | None) -> None:
        """Wake the subscriber after a search, which replaces an earlier error or fallback."""
        self.error, self.fallback, self.has_changed = None, fallback, False
        self.notify_changed()

    def take_change(self) -> int | None:
        """Note that the changes are sent now, and return when the oldest of them was appended.

        The time is in milliseconds since 1970, or None if it is unknown.
        """
        changed_since_ms, self.changed_since_ms = self.changed_since_ms, None
        self.fallback, self.has_changed = None, False
        return changed_since_ms

    def fail(self, error: Exception) -> None:
        """Wake the subscriber with the reason why the query could not be searched."""
        self.error = error
        self.wake()


class StandingQuery:
    """One standing query, which all subscribers with an equal query share."""

    __slots__ = (
        "_limits",
        "list",
        "query",
        "search_began",
        "search_number",
        "state",
        "subscribers",
    )

    def __init__(self, query: PreparedQuery, limits: ListLimits = _DEFAULT_LIMITS) -> None:
        self.query = query
        self._limits = limits
        self.list: StandingList[ListItem] = self.new_list()
        self.state = QueryState.NEW
        # Searches of this query so far. A result of an earlier one is not used.
        self.search_number = 0
        # The number of batches that had arrived when the last search began.
        self.search_began = 0
        self.subscribers: list[Subscriber] = []

    def move_to(self, state: QueryState) -> None:
        """Take a step of the table above. Raises WrongStep."""
        require_state("standing query", self.state, *_BEFORE[state])
        self.state = state

    def subscribe(self, wake: Callable[[], None]) -> Subscriber:
        """Add a subscriber, which is woken once there is a list to send."""
        subscriber = Subscriber(self, wake)
        self.subscribers.append(subscriber)
        if self.is_current:
            subscriber.notify_changed()
        return subscriber

    @property
    def target(self) -> Target:
        """The target that is searched."""
        return self.query.target

    @property
    def is_current(self) -> bool:
        """Return whether the list is what an exact search at the present state would return."""
        return self.state is QueryState.CURRENT

    @property
    def is_searching(self) -> bool:
        """Return whether a search is under way."""
        return self.state is QueryState.SEARCHING

    @property
    def has_failed(self) -> bool:
        """Return whether the query cannot be searched, so that it will never have a list."""
        return self.state is QueryState.FAILED

    @property
    def is_incremental(self) -> bool:
        """Return whether the list can follow batches without a search."""
        return not self.query.collapse

    def new_list(self) -> StandingList[Any]:
        """Return an empty list for this query."""
        query = self.query
        # A search with `collapse` does not return the other rows of an item, so that a spare item
        # could not be trusted.
        wanted = query.k if query.collapse else self._limits.wanted(query.k)
        return StandingList(query.k, wanted, query.min_score)

    def top(self) -> Sequence[RankedItem]:
        """Return the best `k` items in rank order, with their scores."""
        return self.list.top()

    def note_change_time(self, appended_ms: int | None) -> None:
        """Remember for all subscribers when their oldest unsent change was appended."""
        for subscriber in self.subscribers:
            subscriber.note_change_time(appended_ms)

    def notify_changed(self) -> None:
        """Wake the subscribers, since the list has changed."""
        for subscriber in self.subscribers:
            subscriber.notify_changed()

    def wake(self) -> None:
        """Wake the subscribers, which asked for the list while it had no state."""
        for subscriber in self.subscribers:
            subscriber.wake()

    def notify_searched(self, fallback: tuple[Sequence[RankedItem], AsOf] | None = None) -> None:
        """Wake the subscribers after a search; `fallback` is its list if batches overtook it."""
        for subscriber in self.subscribers:
            subscriber.notify_searched(fallback)

    def fail(self, error: Exception) -> None:
        """Pass the subscribers the reason why the query could not be searched."""
        for subscriber in self.subscribers:
            subscriber.fail(error)
