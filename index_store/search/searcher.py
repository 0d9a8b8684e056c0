"""The ports of search over the index that a node serves, and the feed of applied batches."""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from itertools import islice
from random import choice

import faiss
import numpy as np

from contracts.errors import NotReady
from contracts.filters.nodes import Filter
from contracts.filters.warnings import FilterWarning
from contracts.ports.hit import Hit, VectorQuery
from contracts.ports.search import Answer, AppliedBatch
from contracts.score import Vectors
from contracts.topics import TARGETS, Target
from contracts.wire.as_of import AsOf
from index_store.index import Index
from index_store.metadata.segment_fields import OnRowsRead
from index_store.search.request_batch import RequestBatcher
from index_store.view import IndexView

# The number of queries that may be answered on the event loop, and their estimated time together.
_AT_ONCE = 2
_QUICK_MS = 1.5
# A request for more hits than this takes long, so it waits with the exact searches.
_MUCH = 10_000
# Recent queries that are kept of each target, for tuning and for the audit of recall.
_RECENT = 256
_CORES = faiss.omp_get_max_threads()


class LocalSearcher:
    """The Searcher and IndexProgress of a node, which answers only while it is ready.

    Until the index is complete, and while it is stale, searches raise NotReady (invariant 8).
    Queries that are not `exact` are answered with a recall@10 of about `target_recall`; 1 means
    exactly. `reads` is called with the number of rows whose metadata was read because a filter's
    field has no index. Fast searches, exact ones and the warnings of filters each wait in a queue
    of their own.
    """

    def __init__(
        self, *, target_recall: float = 0.95, reads: OnRowsRead = lambda rows: None
    ) -> None:
        self._recall = None if target_recall >= 1 else target_recall
        self._recent: dict[Target, deque[VectorQuery]] = {
            target: deque(maxlen=_RECENT) for target in TARGETS
        }
        self._reads = reads
        self._fast = RequestBatcher(partial(self._answers, patient=False), self._are_quick)
        self._exact = RequestBatcher(partial(self._answers, patient=True))
        self._warned = RequestBatcher(self._warnings)
        self._index: Index | None = None
        self.generation = 0
        self.is_ready = False
        self.reason: str | None = "starting"

    def queues(self) -> dict[str, Callable[[], int]]:
        """Return functions that count the waiting requests, by the name of the queue."""
        return {"search": self._fast.waiting, "search_exact": self._exact.waiting}

    def serve(self, index: Index) -> None:
        """Answer from `index` from now on, as soon as `set_ready` is called."""
        self._index = index
        self.generation += 1
        self.set_not_ready("replaying")

    def set_ready(self) -> None:
        """Begin to answer, and give growing rows the codes that make searches fast."""
        self.is_ready, self.reason = True, None
        if self._index is not None:
            self._index.enable_growing_codes()

    def set_not_ready(self, reason: str) -> None:
        """Refuse searches with NotReady, whose message names the reason."""
        self.is_ready, self.reason = False, reason

    async def search(self, queries: Sequence[VectorQuery]) -> list[Answer]:
        """Return the answers in order, all from one view. Raises NotReady."""
        self._ready_index()
        for query in queries:
            if not query.exact:
                self._recent[query.target].append(query)
        # Slow searches must not delay fast ones.
        much = len(queries) > 1 and sum(query.k + query.offset for query in queries) > _MUCH
        slow = much or any(query.exact or self._needs_scan(query) for query in queries)
        answers = None if slow else await self._fast.ask(queries)
        return await self._search_slowly(queries) if answers is None else answers

    def _needs_scan(self, query: VectorQuery) -> bool:
        view = self._ready_index().view
        return query.filter is not None and view.needs_scan(query.target, query.filter)

    async def _search_slowly(self, queries: Sequence[VectorQuery]) -> list[Answer]:
        """Return the answers to one request, which waits in the queue of exact searches."""
        answers = await self._exact.ask(queries)
        assert answers is not None
        return answers

    def _answers(
        self, requests: Sequence[Sequence[VectorQuery]], *, patient: bool
    ) -> list[list[Answer] | None]:
        """Return the answers to a batch of requests, all from one view.

        Unless `patient`, the answer is None for a request with a query that takes an exact scan.
        This mostly runs in a thread: numpy and Faiss release the interpreter lock, so the event
        loop goes on.
        """
        view = self._ready_index().view
        asked = [query for queries in requests for query in queries]
        alone = len(asked) == 1 and self._recall is not None
        # A call of Faiss ends with the last of its threads, and a running merge may keep that one
        # from its core. Several threads are worth it only if there is much to share. Their number
        # is a setting of the calling thread (OpenMP 5.2, section 2.4).
        few = not patient and (alone or self._are_quick(requests))
        faiss.omp_set_num_threads(1 if few else _CORES)
        found = iter(
            view.answers_or_none(asked, recall=self._recall, reads=self._reads, patient=patient)
        )
        answers: list[list[Answer] | None] = []
        for queries in requests:
            some = list(islice(found, len(queries)))
            whole = [answer for answer in some if answer is not None]
            answers.append(whole if len(whole) == len(some) else None)
        return answers

    def _are_quick(self, requests: Sequence[Sequence[VectorQuery]]) -> bool:
        """Return whether these requests are estimated to hold the event loop only briefly."""
        asked = [query for queries in requests for query in queries]
        if self._index is None or self._recall is None or len(asked) > _AT_ONCE:
            return False
        if any(query.exact for query in asked):
            return False
        view, recall = self._index.view, self._recall
        return sum(view.cost_ms(query, recall) for query in asked) <= _QUICK_MS

    def recent_vectors(self, target: Target) -> Vectors:
        """Return the vectors of recent queries (n, dim), on which an index should be tuned.

        Without any, the shape is (0, 1).
        """
        found = [query.vector for query in self._recent[target]]
        return np.stack(found) if found else np.empty((0, 1), np.float16)

    async def audit(self, target: Target) -> float | None:
        """Return the recall of a random recent query, which is searched again, also exactly.

        The result is from 0 to 1, or None if the node is not ready or has no recent query.
        """
        if self._index is None or not self.is_ready or not self._recent[target]:
            return None
        view, query = self._index.view, choice(self._recent[target])
        return await asyncio.to_thread(_recall, view, query, self._recall)

    async def warnings(self, target: Target, condition: Filter) -> Sequence[FilterWarning]:
        return await self._warned.ask((target, condition))

    def _warnings(self, asked: Sequence[tuple[Target, Filter]]) -> list[Sequence[FilterWarning]]:
        view = self._ready_index().view
        return [view.warnings(target, condition, self._reads) for target, condition in asked]

    async def item(self, target: Target, item_id: str) -> Hit | None:
        return self._ready_index().get(target, item_id)

    def as_of(self) -> AsOf:
        return self._ready_index().as_of()

    def highest_source(self, target: Target, partition: int) -> int:
        return self._index.highest_source(target, partition) if self._index else -1

    def rejection_reason(self, target: Target, partition: int, offset: int) -> str | None:
        return self._index.rejection_reason(target, partition, offset) if self._index else None

    def count(self, target: Target) -> int:
        return self._index.count(target) if self._index else 0

    def digests(self) -> list[dict[str, object]]:
        return self._index.digests() if self._index else []

    def _ready_index(self) -> Index:
        if self._index is None or not self.is_ready:
            raise NotReady(f"this node cannot answer yet: {self.reason}")
        return self._index


def _recall(view: IndexView, query: VectorQuery, recall: float | None) -> float | None:
    [found], [right] = view.search([query], recall=recall), view.search([query])
    wanted = {hit.id for hit in right}
    return len(wanted & {hit.id for hit in found}) / len(wanted) if wanted else None


class AppliedFeed:
    """The AppliedBatches port: it calls the listeners in order, on the event loop."""

    def __init__(self) -> None:
        # The keys stand for calls of `listen`, since the same listener may be added twice.
        self._listeners: dict[object, Callable[[Sequence[AppliedBatch]], None]] = {}

    def listen(self, listener: Callable[[Sequence[AppliedBatch]], None]) -> Callable[[], None]:
        listening = object()
        self._listeners[listening] = listener

        def stop() -> None:
            self._listeners.pop(listening, None)

        return stop

    def publish(self, applied: Sequence[AppliedBatch]) -> None:
        """Pass the batches to all listeners."""
        for listener in tuple(self._listeners.values()):
            listener(applied)
