"""All standing queries, and the changes that each applied batch makes to their lists. No I/O.

A standing query is *current* while its list (api.live.top.ranked_list) is what an exact search at
the present state would return; api.live.top.standing_query has the table of all states. A current
list follows the batches:

- an item that was put in again or removed leaves every list that holds it;
- an item that was put in enters every list whose bound it reaches, if it matches: a matrix product
  of new vectors and standing queries nominates the pairs, and the exact score decides.

Lists of four types cannot follow and are searched: the first list of a query; one that has lost too
many items; one whose vector comes from an item that changed; and one with `collapse`, in which the
removal of an item's best row makes room for its second best. The search sees all batches that were
applied before it began, and perhaps some of those that arrive while it runs. So the batches since
it began are kept, and applied to its list when it ends. A batch that the search has already seen
does no harm: the last batch with an item decides, as in the log.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import chain

from api.live.batch_match import MatchBatch, Matches, QueryMatrix
from api.live.limits import ListLimits
from api.live.top.ranked_item import ListItem, RankedItem
from api.live.top.ranked_list import StandingList
from api.live.top.recent_batches import RecentBatches
from api.live.top.refilled_list import RefilledList, RefillResult
from api.live.top.shared_items import SharedItems
from api.live.top.standing_query import QueryState, StandingQuery
from api.queries.prepare import ItemRef
from contracts.ports.hit import Hit
from contracts.ports.search import AppliedBatch, Matcher
from contracts.score import Vectors
from contracts.topics import TARGETS, Target
from contracts.wire.as_of import AsOf

# A filter's evaluation of one item takes as long as this many pairs of a query and an item.
_PAIRS_PER_EVALUATION = 64
_DEFAULT_LIMITS = ListLimits()


class StandingQuerySet:
    """All standing queries of one node, to whose lists batches are applied.

    `search` is called when a query is due: take it by `take_due`, search it, and pass what
    `refill_result` returns to `complete_refill`. All methods are plain functions, so that no
    other task sees a state in between; `apply_in_steps` says where others may run.
    """

    def __init__(
        self, matcher: Matcher, search: Callable[[], None], limits: ListLimits = _DEFAULT_LIMITS
    ) -> None:
        self._matcher = matcher
        self._search = search
        self._all: set[StandingQuery] = set()
        # The queries that are DUE, in the order in which they are searched, and those SEARCHING.
        self._due: dict[StandingQuery, None] = {}
        self._searching: set[StandingQuery] = set()
        self._batches = 0
        self._recent_batches = RecentBatches(limits.recent_rows_max)
        # The queries whose vector comes from an item, by that item.
        self._by_query_item: dict[ItemRef, set[StandingQuery]] = {}
        # The items and the vectors of the current queries.
        self._shared_items: dict[Target, SharedItems] = {
            target: SharedItems() for target in TARGETS
        }
        self._matrices: dict[Target, QueryMatrix[StandingQuery]] = {
            target: QueryMatrix() for target in TARGETS
        }

    def __len__(self) -> int:
        return len(self._all)

    def waiting(self) -> int:
        """Return how many queries are due to be searched."""
        return len(self._due)

    def add(self, query: StandingQuery) -> None:
        """Register a query, which is due at once: it misses no batch from now on."""
        self._all.add(query)
        for item in query.query.items:
            self._by_query_item.setdefault(item, set()).add(query)
        self._invalidate(query)

    def remove(self, query: StandingQuery) -> None:
        """Forget a query and everything that is kept for it."""
        self._move(query, QueryState.REMOVED)
        self._all.discard(query)
        for item in query.query.items:
            users = self._by_query_item.get(item, set())
            users.discard(query)
            if not users:
                self._by_query_item.pop(item, None)

    def take_due(self, count_max: int) -> list[StandingQuery]:
        """Return the next queries that are due; their searches begin now."""
        taken = list(self._due)[:count_max]
        for query in taken:
            self._move(query, QueryState.SEARCHING)
            query.search_number += 1
            query.search_began = self._batches
            self._searching.add(query)
        return taken

    def requeue(self, query: StandingQuery) -> None:
        """Make a query due again whose search was not answered, unless it is due already."""
        if query.is_searching:
            self._invalidate(query)

    def fail(self, query: StandingQuery, error: Exception) -> None:
        """Give up a query that cannot be searched, and pass the reason to its subscribers."""
        if query.state is not QueryState.REMOVED:
            self._move(query, QueryState.FAILED)
            query.fail(error)

    def refill_result(
        self,
        query: StandingQuery,
        vector: Vectors,
        ranked: Sequence[RankedItem],
        as_of: AsOf | None = None,
    ) -> RefillResult | None:
        """Return a search's result for `vector` (dim,), or None if the query was invalidated."""
        if not query.is_searching:
            return None
        return RefillResult(query, vector, ranked, as_of, query.search_number)

    def complete_refill(self, result: RefillResult) -> None:
        """Apply the batches since the search began to its list, and make that list current.

        If one of them cannot be applied, the query is due again. All batches that had arrived when
        the search ended must have been applied to the other lists.
        """
        query = result.query
        if not query.is_searching or query.search_number != result.search_number:
            return
        refilled = self._refilled(result)
        if refilled is None:
            self._invalidate(query)
            # A query with `collapse` might never have a list where batches arrive all the time.
            if not query.is_incremental and result.as_of is not None:
                query.notify_searched((result.ranked, result.as_of))
            return
        self._move(query, QueryState.CURRENT)
        shared = self._shared_items[query.target]
        query.list = refilled.map_items(lambda hit: shared.add(query, hit))
        self._matrices[query.target].put(query, result.vector, refilled.floor)
        query.notify_searched()

    def apply_batches(self, batches: Iterable[AppliedBatch]) -> None:
        """Apply batches to all lists at once, in their order."""
        self.apply_now([self.number_batch(applied) for applied in batches])

    def apply_now(self, batches: Iterable[MatchBatch]) -> None:
        """Match and apply numbered batches at once."""
        for _ in self.apply_in_steps((batch, self.match_job(batch)()) for batch in batches):
            pass

    def number_batch(self, applied: AppliedBatch) -> MatchBatch:
        """Return an applied batch with its number. Searches that begin from now on see it."""
        self._batches += 1
        return MatchBatch(applied, self._matcher, self._batches)

    def pairs(self, batch: MatchBatch) -> int:
        """Return how many pairs of a query and a new item it takes to match a batch.

        Evaluations of filters are counted as the pairs that take as long.
        """
        rows = self._matrices[batch.applied.target]
        return (len(rows) + _PAIRS_PER_EVALUATION * rows.filtered) * len(batch.applied.upserted)

    def match_job(self, batch: MatchBatch) -> Callable[[], Matches[StandingQuery]]:
        """Return a function that matches a batch, for any thread.

        No refill may be completed until the matches have been applied.
        """
        return partial(batch.matches, self._matrices[batch.applied.target].view())

    def apply_in_steps(
        self, batches: Iterable[tuple[MatchBatch, Matches[StandingQuery]]]
    ) -> Iterator[None]:
        """Apply batches to all lists, and yield after each change of one list.

        Between two steps anything may happen except that a refill is completed. The lists are those
        of the state after the batches only at the end, and subscribers are woken only then.
        """
        changed: dict[StandingQuery, None] = {}
        for batch, matches in batches:
            if self._searching:
                self._recent_batches.add(batch)
            self._invalidate_by_query_items(batch)
            yield from self._take_out(batch, changed)
            yield from self._put_in(batch, matches, changed)
        for query in changed:
            if query.is_current and query.list.is_short:
                self._invalidate(query)
            elif query.is_current:
                query.notify_changed()

    def invalidate_all(self) -> None:
        """Make every query due, since the state is not a successor of the last one."""
        for query in list(self._all):
            if not query.has_failed:
                for subscriber in query.subscribers:
                    subscriber.fallback = None
                self._invalidate(query)

    def _invalidate_by_query_items(self, batch: MatchBatch) -> None:
        """Make the queries due whose vector comes from one of the batch's items."""
        if not self._by_query_item:
            return
        applied = batch.applied
        for item_id in chain(applied.upserted, applied.removed):
            for query in self._by_query_item.get(ItemRef(applied.target, item_id), ()):
                # A search that began after the batch arrived has seen it.
                has_seen = query.is_searching and query.search_began >= batch.number
                if not has_seen and not query.has_failed:
                    self._invalidate(query, applied.appended_ms)

    def _take_out(self, batch: MatchBatch, changed: dict[StandingQuery, None]) -> Iterator[None]:
        """Take the batch's items out of every list that holds one.

        A query is `changed` if the item was among its best `k`: only then can its list become too
        short.
        """
        applied = batch.applied
        shared = self._shared_items[applied.target]
        for item_id in shared.held_among(chain(applied.upserted, applied.removed)):
            for query in shared.holders(item_id):
                if not query.is_current:
                    continue
                if not query.is_incremental:
                    self._invalidate(query, applied.appended_ms)
                else:
                    shared.discard(query, item_id)
                    if query.list.remove(item_id):
                        query.note_change_time(applied.appended_ms)
                        changed[query] = None
                yield

    def _put_in(
        self,
        batch: MatchBatch,
        matches: Matches[StandingQuery],
        changed: dict[StandingQuery, None],
    ) -> Iterator[None]:
        """Put the items that match into the lists; a query is `changed` if its best `k` are."""
        applied = batch.applied
        shared, rows = self._shared_items[applied.target], self._matrices[applied.target]
        for query, number, score in matches:
            if not query.is_current:
                continue
            hit, ranked = batch.hit(number), query.list
            if not query.is_incremental:
                self._invalidate(query, applied.appended_ms)
            elif ranked.admits(score, hit.id):
                if ranked.put(score, shared.add(query, hit)):
                    query.note_change_time(applied.appended_ms)
                    changed[query] = None
                if ranked.is_long:
                    for item in ranked.trim():
                        shared.discard(query, item.id)
                    rows.raise_floor(query, ranked.floor)
            yield

    def _refilled(self, result: RefillResult) -> StandingList[Hit | ListItem] | None:
        """Return the search's list after the batches since it began.

        Returns None if one of these was dropped or cannot be applied.
        """
        batches = self._recent_batches.after(result.query.search_began)
        if batches is None:
            return None
        refilled = RefilledList(result)
        return refilled.list if all(map(refilled.apply, batches)) else None

    def _invalidate(self, query: StandingQuery, changed_ms: int | None = None) -> None:
        """Make a query due. The result of a search of it that is running will not be used."""
        query.note_change_time(changed_ms)
        if query.state is not QueryState.DUE:
            self._move(query, QueryState.DUE)
            self._due[query] = None
        self._search()

    def _move(self, query: StandingQuery, state: QueryState) -> None:
        """Take the query to a state, and release what was kept for it in the last one."""
        before = query.state
        query.move_to(state)
        if before is QueryState.DUE:
            del self._due[query]
        elif before is QueryState.SEARCHING:
            self._searching.remove(query)
            needed = min((one.search_began for one in self._searching), default=self._batches)
            self._recent_batches.forget(needed)
        elif before is QueryState.CURRENT:
            self._release_list(query)

    def _release_list(self, query: StandingQuery) -> None:
        shared = self._shared_items[query.target]
        for item in query.list.items():
            shared.discard(query, item.id)
        query.list.clear()
        self._matrices[query.target].remove(query)
