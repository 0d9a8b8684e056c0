"""What the settled lists of one target hold: each item once, and whose lists hold it. No I/O."""

from collections.abc import Iterable, Sequence

from api.live.top.ranked_item import ListItem
from api.live.top.standing_query import StandingQuery
from contracts.ports.hit import Hit

# Holders that are kept in a tuple: a set takes four times as much, and more.
_FEW = 32


class _SharedItem(ListItem):
    """Half of all have one holder; a few, which stand near everything, have thousands."""

    __slots__ = ("_holders",)

    def __init__(self, hit: Hit | ListItem, holder: StandingQuery) -> None:
        super().__init__(hit)
        self._holders: StandingQuery | tuple[StandingQuery, ...] | set[StandingQuery] = holder

    def holders(self) -> tuple[StandingQuery, ...]:
        held = self._holders
        return (held,) if isinstance(held, StandingQuery) else tuple(held)

    def join(self, standing: StandingQuery) -> None:
        held = self._holders
        if isinstance(held, set):
            held.add(standing)
        else:
            joined = (*self.holders(), standing)
            self._holders = joined if len(joined) <= _FEW else set(joined)

    def leave(self, standing: StandingQuery) -> bool:
        """Whether that was the last."""
        held = self._holders
        if isinstance(held, set):
            held.discard(standing)
        else:
            self._holders = tuple(one for one in self.holders() if one is not standing)
        return not self._holders


class SharedItems:
    """An item is kept while some list holds it. All lists are of one state, so of one version."""

    def __init__(self) -> None:
        self._items: dict[str, _SharedItem] = {}

    def __len__(self) -> int:
        return len(self._items)

    def among(self, item_ids: Iterable[str]) -> list[str]:
        """Those that some list holds."""
        items = self._items
        return [item_id for item_id in item_ids if item_id in items]

    def holders(self, item_id: str) -> Sequence[StandingQuery]:
        item = self._items.get(item_id)
        return () if item is None else item.holders()

    def add(self, standing: StandingQuery, hit: Hit | ListItem) -> ListItem:
        """Its list holds this item from now on."""
        item = self._items.get(hit.id)
        if item is None:
            item = self._items[hit.id] = _SharedItem(hit, standing)
        else:
            item.join(standing)
        if standing.question.with_vector:
            item.vector = hit.vector
        return item

    def discard(self, standing: StandingQuery, item_id: str) -> None:
        """It does not any more."""
        if self._items[item_id].leave(standing):
            del self._items[item_id]
