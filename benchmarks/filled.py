"""An index filled as the maintainer fills it, and records to go on with."""

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from benchmarks.clip_like import Wide
from contracts.events.embedding_record import encode_embedding
from contracts.events.record import Fetched, Record, Source, TopicPartition
from contracts.ports.hit import VectorQuery
from contracts.score import Vectors, unit
from contracts.space import Space
from contracts.topics import TARGETS, Names
from index_store.index import Index

DIM = 512
SPACE = Space("bench-v1", "clip", "1", "bench", DIM)
NAMES = Names("bench.", SPACE.name)
PICTURES = TopicPartition(NAMES.embeddings("images"), 0)


@dataclass
class Filled:
    """An index of pictures i0, i1, ..., with fields that admit 50 %, 1 % and 0.01 % of them."""

    index: Index = field(
        default_factory=lambda: Index(
            SPACE,
            NAMES,
            dict.fromkeys(TARGETS, 1),
            {NAMES.embeddings(target): target for target in TARGETS},
        )
    )
    offset: int = 0

    def fill(self, blocks: Iterable[Vectors]) -> float:
        """Apply all rows, and return the records per second."""
        began, before = time.perf_counter(), self.offset
        for block in blocks:
            for batch in self.batches([f"i{self.offset + n}" for n in range(len(block))], block):
                self.index.apply(batch)
        return (self.offset - before) / (time.perf_counter() - began)

    def batches(self, ids: Sequence[str], vectors: Vectors) -> Iterator[Fetched]:
        for start in range(0, len(ids), 2048):
            records = [
                self.put(item_id, vector)
                for item_id, vector in zip(
                    ids[start : start + 2048], vectors[start : start + 2048], strict=True
                )
            ]
            yield self.fetched(records)

    def put(self, item_id: str, vector: Vectors, **metadata: int) -> Record:
        """Return the next record of the log, with `metadata` beside the fields of filters."""
        n = self.offset
        fields = {"half": n % 2, "hundredth": n % 100, "rare": n % 10_000}
        value = encode_embedding(SPACE, vector, text=f"picture {n}", metadata=fields | metadata)
        return self._record(item_id, value)

    def delete(self, item_id: str) -> Fetched:
        return self.fetched([self._record(item_id, None)])

    def fetched(self, records: list[Record]) -> Fetched:
        """The latest records as they are applied."""
        return Fetched({PICTURES: records}, {PICTURES: self.offset})

    def _record(self, item_id: str, value: bytes | None) -> Record:
        n = self.offset
        self.offset += 1
        headers = [("source", Source("content", 0, n).encode()), ("appended", b"1")]
        return Record(PICTURES.topic, 0, n, 1, item_id.encode(), value, headers)


def queries(texts: Wide, count: int) -> list[VectorQuery]:
    rows = unit(texts[:count])
    return [VectorQuery("images", row) for row in rows]
