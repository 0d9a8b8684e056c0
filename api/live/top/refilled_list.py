"""The list that a search returned, brought up to the batches that arrived while it ran. No I/O."""

from collections.abc import Sequence
from dataclasses import dataclass

from api.live.batch_match import MatchBatch, QueryMatrix
from api.live.top.ranked_item import ListItem, RankedItem
from api.live.top.ranked_list import StandingList
from api.live.top.standing_query import StandingQuery
from contracts.ports.hit import Hit
from contracts.score import Vectors
from contracts.wire.as_of import AsOf


@dataclass(frozen=True, eq=False, slots=True)
class RefillResult:
    """The list that one search of a standing query returned."""

    query: StandingQuery
    vector: Vectors
    ranked: Sequence[RankedItem]
    as_of: AsOf | None
    # The query's search that returned it.
    search_number: int


class RefilledList:
    """The list of a search, to which batches are applied in their order."""

    def __init__(self, result: RefillResult) -> None:
        self._query = result.query
        self.list: StandingList[Hit | ListItem] = result.query.new_list()
        scores, items = [pair[0] for pair in result.ranked], [pair[1] for pair in result.ranked]
        self.list.replace_all(scores, items)
        # One row: the query's vector.
        self._matrix = QueryMatrix[StandingQuery]()
        self._matrix.put(result.query, result.vector, self.list.floor)

    def apply(self, batch: MatchBatch) -> bool:
        """Apply one batch, and return whether that was possible: if not, search again."""
        ranked, is_incremental = self.list, self._query.is_incremental
        if batch.applied.target != self._query.target:
            return True
        held = [hit.id for hit in ranked.items() if hit.id in batch.ids]
        if held and not is_incremental:
            return False
        for item_id in held:
            ranked.remove(item_id)
        for _, number, score in batch.matches(self._matrix.view()):
            if not is_incremental:
                return False
            hit = batch.hit(number)
            if ranked.admits(score, hit.id):
                ranked.put(score, hit)
        if ranked.is_long:
            ranked.trim()
            self._matrix.raise_floor(self._query, ranked.floor)
        return not ranked.is_short
