"""The systems of benchmarks.index_search behind one small interface."""

import asyncio
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from benchmarks.filled import DIM, Filled
from contracts.hits import VectorQuery
from contracts.score import Vectors, exact_scores

Ids = NDArray[np.int64]
Rate = Callable[..., Any]
_EFFORTS = (8, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024)


class Contender:
    """Synchronous and safe to call from threads, unless `rates` is overridden."""

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

    def tune(self, target: float, recall: Callable[[], float] | None) -> None:
        """The least effort that reaches the recall; None: what was found before."""
        if recall is None:
            self.set_effort(self._efforts[target])
            return
        for effort in _EFFORTS:
            self.set_effort(effort)
            self._efforts[target] = effort
            if recall() >= target:
                return

    def rates(self, queries: Vectors, rate: Rate, async_rate: Rate) -> tuple[Any, Any]:
        return rate(self.search, queries, 1), rate(self.search, queries, 8)

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

    def build(self, rows: Vectors, queries: Vectors) -> None:
        from index_store.rebuild import Rebuilder
        from index_store.spill import Spill

        self._filled = Filled()
        self._filled.fill([rows])
        self._spill = tempfile.TemporaryDirectory()
        spill = Spill(Path(self._spill.name))
        self._rebuilder = Rebuilder(spill, threads=2, recent=lambda _: queries)
        asyncio.run(self._rebuilder.run(self._filled.index, "images"))

    def tune(self, target: float, recall: Callable[[], float] | None) -> None:
        from index_store.searcher import LocalSearcher

        self._target = target
        self._searcher = LocalSearcher(target_recall=target)
        self._searcher.serve(self._filled.index)
        self._searcher.ready()

    def search(self, query: Vectors) -> list[int]:
        [hits] = self._filled.index.view.search([VectorQuery("images", query)], recall=self._target)
        return [int(hit.id[1:]) for hit in hits]

    async def search_async(self, query: Vectors) -> None:
        await self._searcher.search([VectorQuery("images", query)])

    def upsert(self, ids: Ids, rows: Vectors) -> None:
        for batch in self._filled.batches([f"i{n}" for n in ids.tolist()], rows):
            self._filled.index.apply(batch)

    def delete(self, ids: Ids) -> None:
        for n in ids.tolist():
            self._filled.index.apply(self._filled.delete(f"i{n}"))

    def rates(self, queries: Vectors, rate: Rate, async_rate: Rate) -> tuple[Any, Any]:
        async def both() -> tuple[Any, Any]:
            return await async_rate(self, queries, 1), await async_rate(self, queries, 8)

        return asyncio.run(both())

    def rate_under(self, ingest: Any, queries: Vectors, rate: Rate, async_rate: Rate) -> Any:
        """As a node does it: applying on the loop, growing rows indexed when due."""

        async def maintain() -> None:
            while True:
                await asyncio.sleep(1)
                plan = self._rebuilder.due(self._filled.index, "images")
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


class PlainFaiss(Contender):
    """The same kind and the same re-score, in a plain script with a lock around changes."""

    def build(self, rows: Vectors, queries: Vectors) -> None:
        from index_store import kinds

        self._rows = rows.copy()
        kind = kinds.choose(len(rows), DIM)
        self._index = faiss.index_factory(DIM, kind, faiss.METRIC_INNER_PRODUCT)
        self._index.train(rows[: kinds.training_rows(self._index)].astype(np.float32))
        for start in range(0, len(rows), 16_384):
            self._index.add(rows[start : start + 16_384].astype(np.float32))
        self._lock = threading.Lock()

    def set_effort(self, effort: int) -> None:
        self._effort = effort

    def search(self, query: Vectors) -> list[int]:
        parameters = faiss.SearchParametersIVF(nprobe=self._effort)  # type: ignore[call-arg]
        wide = query.astype(np.float32)[None]
        _, found = self._index.search(wide, 27 * 4, params=parameters)
        ids = found[0][found[0] >= 0]
        scores = exact_scores(self._rows[ids], query)
        return [int(n) for n in ids[np.argsort(-scores)[:10]]]

    def upsert(self, ids: Ids, rows: Vectors) -> None:
        # Removing costs a pass over all lists; a plain script would have to do it.
        with self._lock:
            self._index.remove_ids(ids)  # type: ignore[arg-type]
            self._index.add_with_ids(rows.astype(np.float32), ids)
            self._rows[ids] = rows

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


class Hnswlib(Contender):
    def build(self, rows: Vectors, queries: Vectors) -> None:
        import hnswlib

        self._index = hnswlib.Index("ip", DIM)
        self._index.init_index(len(rows), M=24, ef_construction=200, allow_replace_deleted=True)
        self._index.add_items(rows.astype(np.float32), np.arange(len(rows)), num_threads=2)

    def set_effort(self, effort: int) -> None:
        self._index.set_ef(effort)

    def search(self, query: Vectors) -> list[int]:
        ids, _ = self._index.knn_query(query.astype(np.float32), 10, num_threads=1)
        return [int(n) for n in ids[0]]

    def upsert(self, ids: Ids, rows: Vectors) -> None:
        self._index.add_items(rows.astype(np.float32), ids, num_threads=1)

    def delete(self, ids: Ids) -> None:
        for n in ids.tolist():
            self._index.mark_deleted(n)


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

    def _arrow(self, ids: Ids, rows: Vectors) -> Any:
        pa = self._pa
        flat = pa.array(rows.astype(np.float32).ravel())
        vectors = pa.FixedSizeListArray.from_arrays(flat, DIM)
        return pa.table({"id": pa.array(ids), "vector": vectors})

    def set_effort(self, effort: int) -> None:
        self._effort = effort

    def search(self, query: Vectors) -> list[int]:
        asked = self._table.search(query.astype(np.float32)).distance_type("dot")
        found = asked.nprobes(self._effort).refine_factor(20).select(["id"]).limit(10).to_arrow()
        return [int(n) for n in found["id"].to_pylist()]

    def upsert(self, ids: Ids, rows: Vectors) -> None:
        merging = self._table.merge_insert("id").when_matched_update_all()
        merging.when_not_matched_insert_all().execute(self._arrow(ids, rows))

    def delete(self, ids: Ids) -> None:
        self._table.delete("id % 10 = 0")


class Chroma(Contender):
    def build(self, rows: Vectors, queries: Vectors) -> None:
        import chromadb

        self._client = chromadb.EphemeralClient()
        self._collection = self._client.create_collection(
            "c", metadata={"hnsw:space": "ip", "hnsw:M": 24, "hnsw:construction_ef": 200}
        )
        for start in range(0, len(rows), 5000):
            some = rows[start : start + 5000].astype(np.float32)
            ids = [str(n) for n in range(start, start + len(some))]
            self._collection.add(ids=ids, embeddings=some)

    def set_effort(self, effort: int) -> None:
        self._collection.modify(configuration={"hnsw": {"ef_search": effort}})

    def search(self, query: Vectors) -> list[int]:
        found = self._collection.query(
            query_embeddings=[query.astype(np.float32)], n_results=10, include=[]
        )
        return [int(n) for n in found["ids"][0]]

    def upsert(self, ids: Ids, rows: Vectors) -> None:
        self._collection.upsert(
            ids=[str(n) for n in ids.tolist()], embeddings=rows.astype(np.float32)
        )

    def delete(self, ids: Ids) -> None:
        for start in range(0, len(ids), 1000):
            self._collection.delete(ids=[str(n) for n in ids[start : start + 1000].tolist()])


def make(name: str) -> Contender:
    kinds: dict[str, type[Contender]] = {
        "tidelens": Tidelens,
        "faiss": PlainFaiss,
        "hnswlib": Hnswlib,
        "usearch": Usearch,
        "lancedb": Lancedb,
        "chroma": Chroma,
    }
    return kinds[name]()
