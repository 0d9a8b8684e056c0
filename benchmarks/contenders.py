"""The systems of benchmarks.index_search behind one small interface."""

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

from benchmarks.filled import DIM, Filled
from contracts.filters import json_form
from contracts.filters.nodes import Filter
from contracts.ports.hit import VectorQuery
from contracts.score import Vectors, exact_scores
from index_store.ann import choice, flat, tuning
from index_store.ann.faiss_index import AnnIndex, OperatingPoint

Ids = NDArray[np.int64]
Rate = Callable[..., Any]
TARGETS = (0.95, 0.99)
# Fields that are 0 in a share of 1/n of the rows.
FIELDS = {"half": 2, "hundredth": 100, "rare": 10_000}
_EFFORTS = (8, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024)


class Contender:
    """Synchronous and safe to call from threads, unless `rates` is overridden.

    Every row n has the fields `half`, `hundredth` and `rare`: n modulo 2, 100 and 10,000.
    `condition` is a field that a search wants to be 0; `filters` tells who can do that.
    """

    filters = False

    def build(self, rows: Vectors, queries: Vectors) -> None: ...

    def search(self, query: Vectors) -> list[int]:
        """Ids of the best 10."""
        raise NotImplementedError

    def upsert(self, ids: Ids, rows: Vectors) -> None:
        raise NotImplementedError

    def delete(self, ids: Ids) -> None:
        raise NotImplementedError

    def set_effort(self, effort: int) -> None: ...

    def __init__(self) -> None:
        self._efforts: dict[float, int] = {}
        self.condition: str | None = None

    def tune(self, target: float, recall: Callable[[], float] | None) -> None:
        """The least effort that reaches the recall of the queries that are asked then; None: what
        was found before."""
        if recall is None:
            self.set_effort(self._efforts[target])
            return
        for effort in _EFFORTS:
            self.set_effort(effort)
            self._efforts[target] = effort
            if recall() >= target:
                return

    def rates(
        self, queries: Vectors, rate: Rate, async_rate: Rate, clients: Sequence[int] = (1, 8)
    ) -> list[Any]:
        """Of so many clients."""
        return [rate(self.search, queries, count) for count in clients]

    def rate_under(self, ingest: Any, queries: Vectors, rate: Rate, async_rate: Rate) -> Any:
        thread = threading.Thread(target=ingest)
        thread.start()
        try:
            return rate(self.search, queries, 1)
        finally:
            ingest.stop()
            thread.join()


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
        """Growing rows are indexed when due, as in a node; applied in a thread, not on the loop."""

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
    """The same kind, coarse to fine and with the same exact re-score, in a plain script: no ids,
    no texts, and a lock around changes."""

    filters = True

    def build(self, rows: Vectors, queries: Vectors) -> None:
        self._rows = flat.flat_index(rows)
        kind = choice.choose_index_type(len(rows), DIM)
        self._index = faiss.index_factory(DIM, kind, faiss.METRIC_INNER_PRODUCT)
        self._index.train(rows[: choice.training_rows(self._index)].astype(np.float32))
        for start in range(0, len(rows), 16_384):
            self._index.add(rows[start : start + 16_384].astype(np.float32))
        self._refined = faiss.IndexRefine(self._index, self._rows)
        points = tuning.measure_points(AnnIndex(kind, self._index, [], self._rows), rows, [queries])
        self._points = {target: next(p for p in points if p.recall >= target) for target in TARGETS}
        self._selectors = {None: None} | {
            field: _selector(np.arange(len(rows)) % modulus == 0)
            for field, modulus in FIELDS.items()
        }
        self._lock = threading.Lock()

    def tune(self, target: float, recall: Callable[[], float] | None) -> None:
        """As we are: on a grid of two numbers, by what a query costs (index_store.ann.tuning)."""
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


class Hnswlib(Contender):
    def build(self, rows: Vectors, queries: Vectors) -> None:
        import hnswlib

        self._index = hnswlib.Index("ip", DIM)
        self._index.init_index(len(rows), M=24, ef_construction=200)
        self._index.add_items(rows.astype(np.float32), np.arange(len(rows)), num_threads=2)
        self._deleted: set[int] = set()

    def set_effort(self, effort: int) -> None:
        self._index.set_ef(effort)

    def search(self, query: Vectors) -> list[int]:
        ids, _ = self._index.knn_query(query.astype(np.float32), 10, num_threads=1)
        return [int(n) for n in ids[0]]

    def upsert(self, ids: Ids, rows: Vectors) -> None:
        # It refuses to update what is deleted.
        for n in self._deleted.intersection(ids.tolist()):
            self._index.unmark_deleted(n)
            self._deleted.remove(n)
        self._index.add_items(rows.astype(np.float32), ids, num_threads=1)

    def delete(self, ids: Ids) -> None:
        for n in ids.tolist():
            self._index.mark_deleted(n)
        self._deleted.update(ids.tolist())


class Usearch(Contender):
    def build(self, rows: Vectors, queries: Vectors) -> None:
        from usearch.index import Index

        self._index = Index(ndim=DIM, metric="ip", dtype="f16", connectivity=24)
        self._index.add(np.arange(len(rows)), rows, threads=2)

    def set_effort(self, effort: int) -> None:
        self._index.expansion_search = effort

    def search(self, query: Vectors) -> list[int]:
        return [int(n) for n in self._index.search(query, 10).keys]

    def upsert(self, ids: Ids, rows: Vectors) -> None:
        self._index.remove(ids)
        self._index.add(ids, rows, threads=1)

    def delete(self, ids: Ids) -> None:
        self._index.remove(ids)


class Lancedb(Contender):
    filters = True

    def build(self, rows: Vectors, queries: Vectors) -> None:
        import lancedb
        import pyarrow as pa

        self._folder = tempfile.TemporaryDirectory()
        self._pa = pa
        self._table = lancedb.connect(self._folder.name).create_table(
            "t", self._arrow(np.arange(len(rows)), rows)
        )
        lists = max(16, int(len(rows) ** 0.5))
        self._table.create_index(
            metric="dot", num_partitions=lists, num_sub_vectors=DIM // 8, index_type="IVF_PQ"
        )
        for name in FIELDS:
            self._table.create_scalar_index(name)

    def _arrow(self, ids: Ids, rows: Vectors) -> Any:
        pa = self._pa
        flat = pa.array(rows.astype(np.float32).ravel())
        vectors = pa.FixedSizeListArray.from_arrays(flat, DIM)
        fields = {name: pa.array(ids % modulus) for name, modulus in FIELDS.items()}
        return pa.table({"id": pa.array(ids), "vector": vectors, **fields})

    def set_effort(self, effort: int) -> None:
        self._effort = effort

    def search(self, query: Vectors) -> list[int]:
        asked = self._table.search(query.astype(np.float32)).distance_type("dot")
        if self.condition is not None:
            asked = asked.where(f"{self.condition} = 0", prefilter=True)
        found = (
            asked.nprobes(self._effort)
            .refine_factor(20)
            .select(["id", "_distance"])
            .limit(10)
            .to_arrow()
        )
        return [int(n) for n in found["id"].to_pylist()]

    def upsert(self, ids: Ids, rows: Vectors) -> None:
        merging = self._table.merge_insert("id").when_matched_update_all()
        merging.when_not_matched_insert_all().execute(self._arrow(ids, rows))

    def delete(self, ids: Ids) -> None:
        self._table.delete("id % 10 = 0")


class Chroma(Contender):
    filters = True

    def build(self, rows: Vectors, queries: Vectors) -> None:
        import chromadb

        self._client = chromadb.EphemeralClient()
        self._collection = self._client.create_collection(
            "pictures", metadata={"hnsw:space": "ip", "hnsw:M": 24, "hnsw:construction_ef": 200}
        )
        for start in range(0, len(rows), 5000):
            some = rows[start : start + 5000].astype(np.float32)
            numbers = np.arange(start, start + len(some))
            ids, fields = [str(n) for n in numbers.tolist()], _fields(numbers)
            self._collection.add(ids=ids, embeddings=some, metadatas=fields)

    def set_effort(self, effort: int) -> None:
        self._collection.modify(configuration={"hnsw": {"ef_search": effort}})

    def search(self, query: Vectors) -> list[int]:
        where = None if self.condition is None else {self.condition: 0}
        found = self._collection.query(
            query_embeddings=[query.astype(np.float32)], n_results=10, include=[], where=where
        )
        return [int(n) for n in found["ids"][0]]

    def upsert(self, ids: Ids, rows: Vectors) -> None:
        self._collection.upsert(
            ids=[str(n) for n in ids.tolist()], embeddings=rows.astype(np.float32)
        )

    def delete(self, ids: Ids) -> None:
        for start in range(0, len(ids), 1000):
            self._collection.delete(ids=[str(n) for n in ids[start : start + 1000].tolist()])


class Qdrant(Contender):
    """Its local edge build: HNSW over float16 rows, payload indexes for the fields."""

    filters = True

    def build(self, rows: Vectors, queries: Vectors) -> None:
        import qdrant_edge as qdrant

        self._q = qdrant
        self._folder = tempfile.TemporaryDirectory()
        vectors = qdrant.EdgeVectorParams(
            size=DIM,
            distance=qdrant.Distance.Dot,
            datatype=qdrant.VectorStorageDatatype.Float16,
            memory=qdrant.Memory.Pinned,
        )
        hnsw = qdrant.HnswIndexConfig(m=24, ef_construct=200, full_scan_threshold=10_000)
        config = qdrant.EdgeConfig(vectors={"v": vectors}, hnsw_config=hnsw)
        self._shard = qdrant.EdgeShard.create(self._folder.name, config)
        for start in range(0, len(rows), 2000):
            self.upsert(np.arange(start, min(len(rows), start + 2000)), rows[start : start + 2000])
        for name in FIELDS:
            self._shard.update(
                qdrant.UpdateOperation.create_field_index(name, qdrant.PayloadSchemaType.Integer)
            )
        self._shard.optimize()

    def set_effort(self, effort: int) -> None:
        self._parameters = self._q.SearchParams(hnsw_ef=effort)

    def search(self, query: Vectors) -> list[int]:
        nearest = self._q.Query.Nearest(query.astype(np.float32).tolist(), using="v")
        condition = None
        if self.condition is not None:
            match = self._q.MatchValue(0)
            condition = self._q.Filter(must=[self._q.FieldCondition(self.condition, match=match)])
        request = self._q.SearchRequest(nearest, 10, filter=condition, params=self._parameters)
        return [int(point.id) for point in self._shard.search(request)]

    def upsert(self, ids: Ids, rows: Vectors) -> None:
        points = [
            self._q.Point(n, {"v": row}, fields)
            for n, row, fields in zip(
                ids.tolist(), rows.astype(np.float32).tolist(), _fields(ids), strict=True
            )
        ]
        self._shard.update(self._q.UpdateOperation.upsert_points(points))

    def delete(self, ids: Ids) -> None:
        self._shard.update(self._q.UpdateOperation.delete_points(ids.tolist()))


def _fields(ids: Ids) -> list[Any]:
    return [{name: n % modulus for name, modulus in FIELDS.items()} for n in ids.tolist()]


def make(name: str) -> Contender:
    kinds: dict[str, type[Contender]] = {
        "tidelens": Tidelens,
        "faiss": PlainFaiss,
        "hnswlib": Hnswlib,
        "usearch": Usearch,
        "lancedb": Lancedb,
        "chroma": Chroma,
        "qdrant": Qdrant,
    }
    return kinds[name]()
