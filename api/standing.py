"""Standing queries, and what each applied batch changes in their lists. No I/O.

A standing query is *settled* while its list (api.lists) is what an exact search over the state of
now would return. It stays so batch by batch:

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
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from api.lists import StandingList
from api.queries import ItemRef, Question
from contracts.hits import Hit
from contracts.ports import Applied, AsOf, Matcher
from contracts.score import Vectors
from contracts.topics import TARGETS, Target

_ROWS_FIRST = 16
# Rows of batches that are kept for searches under way; one that takes longer is begun anew.
_KEPT_ROWS = 65_536
# Pairs: bounds what is converted to float64 at a time (64 MB at 512 dimensions).
_SCORED_AT_ONCE = 8192


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


class StandingSet:
    """All standing queries of one node, and the folding of batches into their lists.

    `search` is called when one has to be searched: `take` it, and `settle` it with what was found.
    """

    def __init__(self, matcher: Matcher, search: Callable[[], None]) -> None:
        self._matcher = matcher
        self._search = search
        self._all: set[Standing] = set()
        self._waiting: dict[Standing, None] = {}
        # Searches under way, with the number of batches there had been when each began.
        self._under_way: dict[Standing, int] = {}
        self._batches = 0
        self._kept: deque[tuple[int, _Batch]] = deque()
        self._kept_rows = 0
        self._forgotten = 0
        # Who asks by an item; and, of those that are settled, whose list holds one.
        self._asking: dict[ItemRef, set[Standing]] = {}
        self._holders: dict[Target, _Holders] = {target: _Holders() for target in TARGETS}
        self._rows: dict[Target, _Rows] = {target: _Rows() for target in TARGETS}

    def __len__(self) -> int:
        return len(self._all)

    def waiting(self) -> int:
        """How many are to be searched."""
        return len(self._waiting)

    def add(self, standing: Standing) -> None:
        """Register it, to be searched: from here on no batch goes unnoticed."""
        self._all.add(standing)
        for item in standing.question.items:
            self._asking.setdefault(item, set()).add(standing)
        self._unsettle(standing)

    def remove(self, standing: Standing) -> None:
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

    def take(self, most: int) -> list[Standing]:
        """The next to be searched, which begins now; at most so many."""
        taken = list(self._waiting)[:most]
        for standing in taken:
            del self._waiting[standing]
            self._under_way[standing] = self._batches
        return taken

    def again(self, standing: Standing) -> None:
        """Its search came to nothing: it waits for another."""
        if self._under_way.pop(standing, None) is not None:
            self._unsettle(standing)

    def fail(self, standing: Standing, error: Exception) -> None:
        """It cannot be searched; nothing is kept for it, and its owner is told."""
        self._under_way.pop(standing, None)
        self._forget_batches()
        standing.fail(error)

    def settle(
        self, standing: Standing, vector: Vectors, hits: Sequence[Hit], as_of: AsOf | None = None
    ) -> None:
        """Its search with `vector` found `hits`: fold in what came since, and follow from here.

        Nothing where it is gone, or waits again already. One that does not follow batches is at
        least told what it was at `as_of`: else a busy one would never have any list.
        """
        began = self._under_way.pop(standing, None)
        if began is None:
            return
        standing.found(vector, hits)
        since = [batch for number, batch in self._kept if number > began]
        if began < self._forgotten or not all(self._caught_up(standing, one) for one in since):
            self._unsettle(standing)
            if not standing.follows and as_of is not None:
                standing.failed, standing.overtaken = None, (hits, as_of)
                standing.changed = False
                standing.change(None)
        else:
            standing.settled = True
            standing.failed = standing.overtaken = None
            self._holders[standing.target].add(standing, standing.list.ids())
            self._rows[standing.target].put(standing, vector, standing.floor)
            standing.changed = False
            standing.change(None)
        self._forget_batches()

    def applied(self, batches: Iterable[Applied]) -> None:
        """Fold batches into all lists, in their order."""
        for applied in batches:
            batch = _Batch(applied, self._matcher)
            self._batches += 1
            self._keep(batch)
            changed = self._take_out(applied)
            self._put_in(batch, changed)
            for standing, top in changed.items():
                if not standing.settled:
                    continue
                if standing.list.is_short:
                    self._unsettle(standing, applied.appended_ms)
                elif top:
                    standing.change(applied.appended_ms)

    def mark_all(self) -> None:
        """The state became another one altogether: none of the lists holds."""
        for standing in list(self._all):
            standing.overtaken = None
            self._unsettle(standing)

    def _take_out(self, applied: Applied) -> dict[Standing, bool]:
        """Whose list held one of the batch's items; True where that was in sight."""
        changed: dict[Standing, bool] = {}
        holders = self._holders[applied.target]
        for item_id in chain(applied.upserted, applied.removed):
            if self._asking:
                for standing in self._asking.get(ItemRef(applied.target, item_id), ()):
                    self._unsettle(standing, applied.appended_ms)
            for standing in holders.of(item_id):
                if not standing.follows:
                    self._unsettle(standing, applied.appended_ms)
                else:
                    holders.discard(standing, [item_id])
                    top = standing.list.remove(item_id)
                    changed[standing] = top or changed.get(standing, False)
        return changed

    def _put_in(self, batch: "_Batch", changed: dict[Standing, bool]) -> None:
        target = batch.applied.target
        holders, rows = self._holders[target], self._rows[target]
        overtaken: set[Standing] = set()
        for standing, hit in batch.entering(*rows.all()):
            if not standing.follows:
                # Not now: that would move rows which are being looked at.
                overtaken.add(standing)
                continue
            top = standing.list.put(hit)
            changed[standing] = top or changed.get(standing, False)
            if hit.id in standing.list:
                holders.add(standing, [hit.id])
            if standing.list.is_long:
                holders.discard(standing, standing.list.cut())
                rows.put(standing, standing.vector, standing.floor)
        for standing in overtaken:
            self._unsettle(standing, batch.applied.appended_ms)

    def _caught_up(self, standing: Standing, batch: "_Batch") -> bool:
        """Fold one batch into one list; False where that cannot be."""
        applied, found = batch.applied, standing.list
        if applied.target != standing.target:
            return True
        here = [item_id for item_id in chain(applied.upserted, applied.removed) if item_id in found]
        floors = np.array([standing.floor])
        if here and not standing.follows:
            return False
        for item_id in here:
            found.remove(item_id)
        wide = standing.vector.astype(np.float32)[None]
        for _, hit in batch.entering([standing], wide, floors):
            if not standing.follows:
                return False
            found.put(hit)
        if found.is_long:
            found.cut()
        return not found.is_short

    def _unsettle(self, standing: Standing, since_ms: int | None = None) -> None:
        if standing.since_ms is None:
            standing.since_ms = since_ms
        standing.settled = False
        # A search under way has seen too little.
        if self._under_way.pop(standing, None) is not None:
            self._forget_batches()
        self._let_go(standing)
        self._waiting[standing] = None
        self._search()

    def _let_go(self, standing: Standing) -> None:
        self._holders[standing.target].discard(standing, standing.list.ids())
        self._rows[standing.target].remove(standing)

    def _keep(self, batch: "_Batch") -> None:
        if not self._under_way:
            return
        self._kept.append((self._batches, batch))
        self._kept_rows += batch.rows
        while self._kept_rows > _KEPT_ROWS:
            self._forgotten, oldest = self._kept.popleft()
            self._kept_rows -= oldest.rows

    def _forget_batches(self) -> None:
        """Those that no search under way needs."""
        needed = min(self._under_way.values(), default=self._batches)
        while self._kept and self._kept[0][0] <= needed:
            self._kept_rows -= self._kept.popleft()[1].rows


class _Holders:
    """Whose list holds an item: mostly one or none, and a set takes 200 bytes."""

    def __init__(self) -> None:
        self._of: dict[str, Standing | set[Standing]] = {}

    def __len__(self) -> int:
        return len(self._of)

    def of(self, item_id: str) -> Sequence[Standing]:
        found = self._of.get(item_id)
        if found is None:
            return ()
        return [found] if isinstance(found, Standing) else list(found)

    def add(self, standing: Standing, item_ids: Iterable[str]) -> None:
        for item_id in item_ids:
            found = self._of.setdefault(item_id, standing)
            if isinstance(found, set):
                found.add(standing)
            elif found is not standing:
                self._of[item_id] = {found, standing}

    def discard(self, standing: Standing, item_ids: Iterable[str]) -> None:
        for item_id in item_ids:
            found = self._of.get(item_id)
            if isinstance(found, set):
                found.discard(standing)
                if len(found) == 1:
                    [self._of[item_id]] = found
            elif found is standing:
                del self._of[item_id]


class _Batch:
    """An applied batch, with what is looked up in it at most once."""

    def __init__(self, applied: Applied, matcher: Matcher) -> None:
        self.applied = applied
        # What it counts for while it is kept.
        self.rows = 1 + len(applied.upserted) + len(applied.removed)
        self._matcher = matcher
        self._hits: dict[int, Hit] = {}

    def entering(
        self,
        owners: Sequence[Standing],
        queries: NDArray[np.float32],
        floors: NDArray[np.float64],
    ) -> Iterator[tuple[Standing, Hit]]:
        """Of the items put in, those that match a query and reach its floor, with their score.

        Floors may rise meanwhile; the owners of queries must stay.
        """
        vectors = self.applied.vectors
        if not len(queries) or not len(vectors):
            return
        pairs = self._matcher.nominate(queries, floors, vectors)
        admitted: dict[object, NDArray[np.bool_]] = {}
        for start in range(0, len(pairs[0]), _SCORED_AT_ONCE):
            of, row = (side[start : start + _SCORED_AT_ONCE] for side in pairs)
            # First what costs least. A list that is not full has no floor, so that all rows of
            # every batch are paired with it, and a filter leaves few.
            kept = self._admitted(owners, of, row, admitted)
            of, row = of[kept], row[kept]
            # Float32 holds float16 numbers as they are, and the sum is exact in any order.
            scores = np.einsum(
                "ij,ij->i", queries[of].astype(np.float64), vectors[row].astype(np.float64)
            )
            near = np.flatnonzero(scores >= floors[of])
            for n in near.tolist():
                standing = owners[of[n]]
                yield standing, self._hit(standing, int(row[n]), float(scores[n]))

    def _admitted(
        self,
        owners: Sequence[Standing],
        of: NDArray[np.intp],
        row: NDArray[np.intp],
        known: dict[object, NDArray[np.bool_]],
    ) -> NDArray[np.bool_]:
        """Which pairs the owners' filters let through; each filter looks at a row once."""
        kept = np.ones(len(of), np.bool_)
        # Pairs come in the order of their queries.
        starts = np.flatnonzero(np.r_[True, of[1:] != of[:-1]]) if len(of) else of
        for start, end in zip(starts.tolist(), [*starts[1:].tolist(), len(of)], strict=True):
            condition = owners[of[start]].question.filter
            if condition is None:
                continue
            lets = known.get(condition.key)
            if lets is None:
                rows = range(len(self.applied.upserted))
                lets = known[condition.key] = np.array(
                    [condition.matches(self._looked_up(n).metadata or {}) for n in rows], np.bool_
                )
            kept[start:end] = lets[row[start:end]]
        return kept

    def _hit(self, standing: Standing, number: int, score: float) -> Hit:
        found = self._looked_up(number)
        vector = found.vector if standing.question.with_vector else None
        # By hand: dataclasses.replace takes three times as long.
        return Hit(
            found.target,
            found.id,
            0,
            score,
            found.source,
            found.item,
            found.text,
            found.metadata,
            vector,
        )

    def _looked_up(self, number: int) -> Hit:
        found = self._hits.get(number)
        if found is None:
            found = self._hits[number] = self.applied.hit(number)
        return found


class _Rows:
    """Vectors and floors of one target's standing queries, dense, as the matcher wants them."""

    def __init__(self) -> None:
        self._owners: list[Standing] = []
        self._row_of: dict[Standing, int] = {}
        # Float32, which the product takes: to widen them for each batch would cost as much as it.
        self._vectors: NDArray[np.float32] = np.empty((0, 0), np.float32)
        self._floors: NDArray[np.float64] = np.empty(0)

    def all(self) -> tuple[list[Standing], NDArray[np.float32], NDArray[np.float64]]:
        """Owners, vectors, floors: until one is put or removed."""
        count = len(self._owners)
        return self._owners, self._vectors[:count], self._floors[:count]

    def put(self, standing: Standing, vector: Vectors, floor: float) -> None:
        row = self._row_of.get(standing)
        if row is None:
            row = len(self._owners)
            self._owners.append(standing)
            self._row_of[standing] = row
            if row >= len(self._vectors):
                self._grow(len(vector))
            self._vectors[row] = vector
        self._floors[row] = floor

    def remove(self, standing: Standing) -> None:
        """The last row takes the place of the one that goes."""
        row = self._row_of.pop(standing, None)
        if row is None:
            return
        last = self._owners.pop()
        if last is not standing:
            moved = len(self._owners)
            self._owners[row] = last
            self._row_of[last] = row
            self._vectors[row] = self._vectors[moved]
            self._floors[row] = self._floors[moved]

    def _grow(self, dim: int) -> None:
        size = max(_ROWS_FIRST, 2 * len(self._vectors))
        vectors = np.zeros((size, dim), np.float32)
        floors = np.full(size, np.inf)
        used = len(self._floors)
        if used:
            vectors[:used], floors[:used] = self._vectors, self._floors
        self._vectors, self._floors = vectors, floors
