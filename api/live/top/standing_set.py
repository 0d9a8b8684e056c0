"""All standing queries, and what each applied batch changes in their lists. No I/O.

A standing query is *settled* while its list (api.live.top.ranked_list) is what an exact search over
the state of now would return. It stays so batch by batch:

- an item that was put in anew or taken out leaves every list that it stands in;
- one that was put in enters every list whose bound it reaches, if it matches: a matrix product of
  new vectors and standing queries nominates the pairs, the exact score decides.

What cannot be told so is searched: the first list; one that has lost too many; one whose vector
comes from an item that changed; and one with `collapse`, where the best of an item that goes makes
room for its second best. Meanwhile it is *unsettled*. The search sees all batches that were applied
before it began, and maybe some of those that come while it runs; so all of these are kept, and
folded in when it ends. That some were in it already does no harm: the last of them decides, as in
the log.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import chain
from typing import NamedTuple

from api.live.batch_match import MatchBatch, Matches, QueryMatrix
from api.live.top.ranked_item import ListItem, RankedItem
from api.live.top.ranked_list import StandingList
from api.live.top.shared_items import SharedItems
from api.live.top.standing_query import StandingQuery
from api.queries.prepare import ItemRef
from contracts.ports.hit import Hit
from contracts.ports.search import AppliedBatch, Matcher
from contracts.score import Vectors
from contracts.topics import TARGETS, Target
from contracts.wire.as_of import AsOf

# Rows of batches that are kept for searches under way; one that takes longer is begun anew.
_KEPT_ROWS = 65_536
# A filter's evaluation of one item, in pairs of a query and an item.
_PAIRS_OF_A_LOOK = 64


class RefillResult(NamedTuple):
    """What a search found for a standing query that still wants it."""

    standing: StandingQuery
    vector: Vectors
    ranked: Sequence[RankedItem]
    as_of: AsOf | None
    # The number of batches that had arrived when it began.
    began: int


class StandingQuerySet:
    """All standing queries of one node, and the folding of batches into their lists.

    `search` is called when one has to be searched: `take` it, and `settle` what was `found`.
    """

    def __init__(self, matcher: Matcher, search: Callable[[], None]) -> None:
        self._matcher = matcher
        self._search = search
        self._all: set[StandingQuery] = set()
        self._waiting: dict[StandingQuery, None] = {}
        # Searches under way, with the number of batches that had arrived when each began.
        self._under_way: dict[StandingQuery, int] = {}
        self._batches = 0
        self._kept: deque[MatchBatch] = deque()
        self._kept_rows = 0
        self._forgotten = 0
        # Who asks by an item; and, of those that are settled, what their lists hold.
        self._asking: dict[ItemRef, set[StandingQuery]] = {}
        self._held: dict[Target, SharedItems] = {target: SharedItems() for target in TARGETS}
        self._rows: dict[Target, QueryMatrix[StandingQuery]] = {
            target: QueryMatrix() for target in TARGETS
        }

    def __len__(self) -> int:
        return len(self._all)

    def waiting(self) -> int:
        """How many are to be searched."""
        return len(self._waiting)

    def add(self, standing: StandingQuery) -> None:
        """Register it, to be searched: from here on no batch goes unnoticed."""
        self._all.add(standing)
        for item in standing.question.items:
            self._asking.setdefault(item, set()).add(standing)
        self._unsettle(standing)

    def remove(self, standing: StandingQuery) -> None:
        self._all.discard(standing)
        self._waiting.pop(standing, None)
        self._under_way.pop(standing, None)
        self._let_go(standing)
        for item in standing.question.items:
            asking = self._asking.get(item, set())
            asking.discard(standing)
            if not asking:
                self._asking.pop(item, None)
        self._forget_batches()

    def take(self, most: int) -> list[StandingQuery]:
        """The next to be searched, which begins now; at most so many."""
        taken = list(self._waiting)[:most]
        for standing in taken:
            del self._waiting[standing]
            self._under_way[standing] = self._batches
        return taken

    def again(self, standing: StandingQuery) -> None:
        """Its search came to nothing: it waits for another."""
        if self._under_way.pop(standing, None) is not None:
            self._unsettle(standing)

    def fail(self, standing: StandingQuery, error: Exception) -> None:
        """It cannot be searched; nothing is kept for it, and who watches it is told."""
        self._under_way.pop(standing, None)
        self._forget_batches()
        standing.broken = True
        standing.fail(error)

    def found(
        self,
        standing: StandingQuery,
        vector: Vectors,
        ranked: Sequence[RankedItem],
        as_of: AsOf | None = None,
    ) -> RefillResult | None:
        """Its search with `vector` has ended. Nothing where it is gone, or waits again already."""
        began = self._under_way.get(standing)
        return None if began is None else RefillResult(standing, vector, ranked, as_of, began)

    def settle(self, found: RefillResult) -> None:
        """Fold in what came since that search began, and follow from here.

        All batches that had arrived when it ended must have been folded. One that does not follow
        batches is at least told what it was: else a busy one would never have any list.
        """
        standing, vector, ranked, as_of, began = found
        if self._under_way.get(standing) != began:
            return
        del self._under_way[standing]
        listed: StandingList[Hit | ListItem] = standing.new_list()
        listed.fill([score for score, _ in ranked], [item for _, item in ranked])
        row = QueryMatrix[StandingQuery]()
        row.put(standing, vector, listed.floor)
        since = [batch for batch in self._kept if batch.number > began]
        if began < self._forgotten or not all(
            self._caught_up(standing, listed, row, batch) for batch in since
        ):
            self._unsettle(standing)
            if not standing.follows and as_of is not None:
                standing.know((ranked, as_of))
        else:
            standing.settled = True
            held = self._held[standing.target]
            standing.list = listed.with_items(lambda hit: held.add(standing, hit))
            self._rows[standing.target].put(standing, vector, listed.floor)
            standing.know()
        self._forget_batches()

    def applied(self, batches: Iterable[AppliedBatch]) -> None:
        """Fold batches into all lists, in their order, here and now."""
        self.fold_now([self.arrive(applied) for applied in batches])

    def fold_now(self, batches: Iterable[MatchBatch]) -> None:
        for _ in self.fold((batch, self.matching(batch)()) for batch in batches):
            pass

    def arrive(self, applied: AppliedBatch) -> MatchBatch:
        """The next batch: searches that begin from now on see it."""
        self._batches += 1
        return MatchBatch(applied, self._matcher, self._batches)

    def pairs(self, batch: MatchBatch) -> int:
        """How many there are to look at: of standing queries, and what the batch puts in.

        Evaluating a filter takes as long as the products of many pairs.
        """
        rows = self._rows[batch.applied.target]
        return (len(rows) + _PAIRS_OF_A_LOOK * rows.filtered) * len(batch.applied.upserted)

    def matching(self, batch: MatchBatch) -> Callable[[], Matches[StandingQuery]]:
        """What finds its matches, in any thread. Until they are folded, nothing may be settled."""
        return partial(batch.matches, self._rows[batch.applied.target].now())

    def fold(self, batches: Iterable[tuple[MatchBatch, Matches[StandingQuery]]]) -> Iterator[None]:
        """Fold batches into all lists, one change of one list at a time.

        In between, anything else may happen but that something is settled. Lists are those of the
        state after the batches only at the end, and only then is anybody told.
        """
        changed: dict[StandingQuery, None] = {}
        for batch, matches in batches:
            self._keep(batch)
            self._unsettle_asking(batch)
            yield from self._take_out(batch, changed)
            yield from self._put_in(batch, matches, changed)
        for standing in changed:
            if standing.settled and standing.list.is_short:
                self._unsettle(standing)
            elif standing.settled:
                standing.change()

    def mark_all(self) -> None:
        """The state became another one altogether: none of the lists holds."""
        for standing in list(self._all):
            for watching in standing.watchers:
                watching.overtaken = None
            self._unsettle(standing)

    def _unsettle_asking(self, batch: MatchBatch) -> None:
        """Those whose vector comes from one of the batch's items."""
        if not self._asking:
            return
        applied = batch.applied
        for item_id in chain(applied.upserted, applied.removed):
            for standing in self._asking.get(ItemRef(applied.target, item_id), ()):
                # A search that began later has seen it.
                if self._under_way.get(standing, -1) < batch.number:
                    self._unsettle(standing, applied.appended_ms)

    def _take_out(self, batch: MatchBatch, changed: dict[StandingQuery, None]) -> Iterator[None]:
        """Out of every list that holds one of the batch's items; `changed`: where it was in sight.

        A list becomes too short only by what was in sight.
        """
        applied = batch.applied
        held = self._held[applied.target]
        for item_id in held.among(chain(applied.upserted, applied.removed)):
            for standing in held.holders(item_id):
                if not standing.settled:
                    continue
                if not standing.follows:
                    self._unsettle(standing, applied.appended_ms)
                else:
                    held.discard(standing, item_id)
                    if standing.list.remove(item_id):
                        standing.since(applied.appended_ms)
                        changed[standing] = None
                yield

    def _put_in(
        self, batch: MatchBatch, matches: Matches[StandingQuery], changed: dict[StandingQuery, None]
    ) -> Iterator[None]:
        applied = batch.applied
        held, rows = self._held[applied.target], self._rows[applied.target]
        for standing, number, score in matches:
            if not standing.settled:
                continue
            hit, found = batch.hit(number), standing.list
            if not standing.follows:
                self._unsettle(standing, applied.appended_ms)
            elif found.admits(score, hit.id):
                if found.put(score, held.add(standing, hit)):
                    standing.since(applied.appended_ms)
                    changed[standing] = None
                if found.is_long:
                    for item in found.cut():
                        held.discard(standing, item.id)
                    rows.raise_floor(standing, found.floor)
            yield

    def _caught_up(
        self,
        standing: StandingQuery,
        found: StandingList[Hit | ListItem],
        row: QueryMatrix[StandingQuery],
        batch: MatchBatch,
    ) -> bool:
        """Fold one batch into what a search found for one; False where that cannot be."""
        if batch.applied.target != standing.target:
            return True
        here = [hit.id for hit in found.items() if hit.id in batch.ids]
        if here and not standing.follows:
            return False
        for item_id in here:
            found.remove(item_id)
        for _, number, score in batch.matches(row.now()):
            if not standing.follows:
                return False
            hit = batch.hit(number)
            if found.admits(score, hit.id):
                found.put(score, hit)
        if found.is_long:
            found.cut()
            row.raise_floor(standing, found.floor)
        return not found.is_short

    def _unsettle(self, standing: StandingQuery, since_ms: int | None = None) -> None:
        standing.since(since_ms)
        # A search under way has seen too little.
        if self._under_way.pop(standing, None) is not None:
            self._forget_batches()
        self._let_go(standing)
        self._waiting[standing] = None
        self._search()

    def _let_go(self, standing: StandingQuery) -> None:
        standing.settled = False
        held = self._held[standing.target]
        for item in standing.list.items():
            held.discard(standing, item.id)
        standing.list.clear()
        self._rows[standing.target].remove(standing)

    def _keep(self, batch: MatchBatch) -> None:
        if not self._under_way:
            return
        self._kept.append(batch)
        self._kept_rows += batch.rows
        while self._kept_rows > _KEPT_ROWS:
            oldest = self._kept.popleft()
            self._kept_rows -= oldest.rows
            self._forgotten = oldest.number

    def _forget_batches(self) -> None:
        """Those that no search under way needs."""
        needed = min(self._under_way.values(), default=self._batches)
        while self._kept and self._kept[0].number <= needed:
            self._kept_rows -= self._kept.popleft().rows
