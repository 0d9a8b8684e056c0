"""The items that the current lists of one target hold, each kept once for all lists. No I/O."""

from collections.abc import Iterable, Sequence

from api.live.top.ranked_item import ListItem
from api.live.top.standing_query import StandingQuery
from contracts.ports.hit import Hit

# Up to this many holders are kept in a tuple: a set takes at least four times the memory.
_TUPLE_MAX = 32


class _SharedItem(ListItem):
    """An item, and the queries whose lists hold it.

    Half of all items have one holder; a few, which are near everything, have thousands.
    """

    __slots__ = ("_holders",)

    def __init__(self, hit: Hit | ListItem, holder: StandingQuery) -> None:
        super().__init__(hit)
        self._holders: StandingQuery | tuple[StandingQuery, ...] | set[StandingQuery] = holder

    def holders(self) -> tuple[StandingQuery, ...]:
        """Return the queries whose lists hold the item."""
        held = self._holders
        return (held,) if isinstance(held, StandingQuery) else tuple(held)

    def join(self, query: StandingQuery, tuple_max: int) -> None:
        """Add a holder; up to `tuple_max` holders are kept in a tuple."""
        held = self._holders
        if isinstance(held, set):
            held.add(query)
        else:
            joined = (*self.holders(), query)
            self._holders = joined if len(joined) <= tuple_max else set(joined)

    def leave(self, query: StandingQuery) -> bool:
        """Remove a holder, and return whether it was the last one."""
        held = self._holders
        if isinstance(held, set):
            held.discard(query)
        else:
            self._holders = tuple(one for one in self.holders() if one is not query)
        return not self._holders


class SharedItems:
    """Items by their id; an item is kept while a list holds it.

    All lists are of one state, so they hold the same version of an item.
    """

    def __init__(self, tuple_max: int = _TUPLE_MAX) -> None:
        self._tuple_max = tuple_max
        self._items: dict[str, _SharedItem] = {}

    def __len__(self) -> int:
        return len(self._items)

    def held_among(self, item_ids: Iterable[str]) -> list[str]:
        """Return those of these ids that a list holds."""
        items = self._items
        return [item_id for item_id in item_ids if item_id in items]

    def holders(self, item_id: str) -> Sequence[StandingQuery]:
        """Return the queries whose lists hold this item."""
        item = self._items.get(item_id)
        return () if item is None else item.holders()

    def add(self, query: StandingQuery, hit: Hit | ListItem) -> ListItem:
        """Make the query a holder of this item, and return the item that all lists share."""
        item = self._items.get(hit.id)
        if item is None:
            item = self._items[hit.id] = _SharedItem(hit, query)
        else:
            item.join(query, self._tuple_max)
        if query.query.with_vector:
            item.vector = hit.vector
        return item

    def discard(self, query: StandingQuery, item_id: str) -> None:
        """Remove the query from the holders of this item, which must be one of them."""
        if self._items[item_id].leave(query):
            del self._items[item_id]
