"""Embedded vector stores and graph indexes as contenders of benchmarks.index_search."""

import tempfile
from typing import Any

import numpy as np

from benchmarks.contender import FIELDS, Contender, Ids
from benchmarks.filled import DIM
from contracts.score import Vectors


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
    """Qdrant's local edge build: HNSW over float16 rows, payload indexes for the fields."""

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
