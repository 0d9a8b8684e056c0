"""Tidelens and plain Faiss as contenders of benchmarks.index_search, and all of them by name."""

import asyncio
import tempfile
import threading
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from benchmarks.contender import FIELDS, TARGETS, Contender, Ids, Rate
from benchmarks.filled import DIM, Filled
from benchmarks.vector_stores import Chroma, Hnswlib, Lancedb, Qdrant, Usearch
from contracts.filters import json_form
from contracts.filters.nodes import Filter
from contracts.ports.hit import VectorQuery
from contracts.score import Vectors, exact_scores
from index_store.ann import choice, flat, tuning
from index_store.ann.faiss_index import AnnIndex, OperatingPoint


class Tidelens(Contender):
    """The searcher of a node, with its rebuilds in child processes."""

    filters = True

    def build(self, rows: Vectors, queries: Vectors) -> None:
        from index_store.merge.run import MergeRunner
        from index_store.segment.file_store import SegmentFileStore

        self._filled = Filled()
        self._filled.fill([rows])
        self._spill = tempfile.TemporaryDirectory()
        spill = SegmentFileStore(Path(self._spill.name))
        self._rebuilder = MergeRunner(spill, threads=2, recent=lambda _: queries)
        asyncio.run(self._rebuilder.run(self._filled.index, "images"))

    def tune(self, target: float, recall: Callable[[], float] | None) -> None:
        from index_store.search.searcher import LocalSearcher

        self._target = target
        self._searcher = LocalSearcher(target_recall=target)
        self._searcher.serve(self._filled.index)
        self._searcher.set_ready()

    def search(self, query: Vectors) -> list[int]:
        [hits] = self._filled.index.view.search([self._asked(query)], recall=self._target)
        return [int(hit.id[1:]) for hit in hits]

    async def search_async(self, query: Vectors) -> None:
        await self._searcher.search([self._asked(query)])

    def _asked(self, query: Vectors) -> VectorQuery:
        condition = None if self.condition is None else _condition(self.condition)
        return VectorQuery("images", query, filter=condition)

    def upsert(self, ids: Ids, rows: Vectors) -> None:
        for batch in self._filled.batches([f"i{n}" for n in ids.tolist()], rows):
            self._filled.index.apply(batch)

    def delete(self, ids: Ids) -> None:
        for n in ids.tolist():
            self._filled.index.apply(self._filled.delete(f"i{n}"))

    def rates(
        self, queries: Vectors, rate: Rate, async_rate: Rate, clients: Sequence[int] = (1, 8)
    ) -> list[Any]:
        async def each() -> list[Any]:
            return [await async_rate(self, queries, count) for count in clients]

        return asyncio.run(each())

    def rate_under(self, ingest: Any, queries: Vectors, rate: Rate, async_rate: Rate) -> Any:
        """Measure while rows are applied in a thread and indexed when due, as in a node."""

        async def maintain() -> None:
            while True:
                await asyncio.sleep(1)
                plan = self._rebuilder.due_merge(self._filled.index, "images")
                if plan is not None:
                    await self._rebuilder.run(self._filled.index, "images", plan)

        async def under() -> Any:
            maintaining = asyncio.create_task(maintain())
            thread = asyncio.create_task(asyncio.to_thread(ingest))
            try:
                return await async_rate(self, queries, 1)
            finally:
                ingest.stop()
                await thread
                maintaining.cancel()

        return asyncio.run(under())


@cache
def _condition(field: str) -> Filter:
    return json_form.parse({"eq": {field: 0}})


class PlainFaiss(Contender):
    """Faiss in a plain script: the same index type and re-score, no ids or texts, and one lock."""

    filters = True

    def build(self, rows: Vectors, queries: Vectors) -> None:
        self._rows = flat.flat_index(rows)
        index_type = choice.choose_index_type(len(rows), DIM)
        self._index = faiss.index_factory(DIM, index_type, faiss.METRIC_INNER_PRODUCT)
        self._index.train(rows[: choice.training_rows(self._index)].astype(np.float32))
        for start in range(0, len(rows), 16_384):
            self._index.add(rows[start : start + 16_384].astype(np.float32))
        self._refined = faiss.IndexRefine(self._index, self._rows)
        points = tuning.measure_points(
            AnnIndex(index_type, self._index, [], self._rows), rows, [queries]
        )
        self._points = {target: next(p for p in points if p.recall >= target) for target in TARGETS}
        self._selectors = {None: None} | {
            field: _selector(np.arange(len(rows)) % modulus == 0)
            for field, modulus in FIELDS.items()
        }
        self._lock = threading.Lock()

    def tune(self, target: float, recall: Callable[[], float] | None) -> None:
        """Use the point that index_store.ann.tuning found for the target, as a node does."""
        self._parameters = {
            field: _parameters(self._points[target], selector)
            for field, selector in self._selectors.items()
        }

    def search(self, query: Vectors) -> list[int]:
        wide, parameters = query.astype(np.float32)[None], self._parameters[self.condition]
        _, found = self._refined.search(wide, tuning.NOMINATED, params=parameters)
        ids = found[0][found[0] >= 0]
        scores = exact_scores(flat.index_vectors(self._rows)[ids], query)
        return [int(n) for n in ids[np.argsort(-scores)[:10]]]

    def upsert(self, ids: Ids, rows: Vectors) -> None:
        # Removing costs a pass over all lists; a plain script would have to do it.
        with self._lock:
            self._index.remove_ids(ids)  # type: ignore[arg-type]
            self._index.add_with_ids(rows.astype(np.float32), ids)
            flat.index_vectors(self._rows)[ids] = rows

    def delete(self, ids: Ids) -> None:
        self._index.remove_ids(ids)  # type: ignore[arg-type]

    def rate_under(self, ingest: Any, queries: Vectors, rate: Rate, async_rate: Rate) -> Any:
        def locked(query: Vectors) -> list[int]:
            with self._lock:
                return self.search(query)

        thread = threading.Thread(target=ingest)
        thread.start()
        try:
            return rate(locked, queries, 1)
        finally:
            ingest.stop()
            thread.join()


def _parameters(point: OperatingPoint, selector: Any) -> Any:
    # The Python layer takes keywords that the stubs do not know.
    lists = faiss.SearchParametersIVF(nprobe=point.effort, sel=selector)  # type: ignore[call-arg]
    return faiss.IndexRefineSearchParameters(  # type: ignore[call-arg]
        k_factor=point.depth, base_index_params=lists
    )


def _selector(admitted: NDArray[np.bool_]) -> Any:
    bits = np.packbits(admitted, bitorder="little")
    return faiss.IDSelectorBitmap(bits)  # type: ignore[call-arg, arg-type]


def make(name: str) -> Contender:
    systems: dict[str, type[Contender]] = {
        "tidelens": Tidelens,
        "faiss": PlainFaiss,
        "hnswlib": Hnswlib,
        "usearch": Usearch,
        "lancedb": Lancedb,
        "chroma": Chroma,
        "qdrant": Qdrant,
    }
    return systems[name]()
