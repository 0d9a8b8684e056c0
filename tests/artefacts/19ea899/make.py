"""Wrote the artefacts beside it. It runs with the code of 19ea899 alone, and is never edited.

    git worktree add --detach ../old 19ea899
    cd ../old && PYTHONPATH=. python ../tidelens/tests/artefacts/19ea899/make.py OUT

Everything is synthetic and drawn from one seed. Random names and clocks are fixed too; only the
milliseconds that an index was measured to take differ from run to run.
"""

import asyncio
import base64
import os
import random
import sys
import time
import uuid
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import orjson

from consumers.encoders import kept
from contracts.cursors import Cursor
from contracts.dead_letters import dead_letter_record, mark_record, read_letter
from contracts.embedding import embedding_record, encode_value
from contracts.errors import RejectedRecord
from contracts.events import Content, content_record, delete_record
from contracts.memory import HashEncoder
from contracts.partitioning import partitioner
from contracts.ports import AsOf
from contracts.records import Fetched, OutRecord, Record, RecordPosition, Source, TopicPartition
from contracts.score import Vectors, unit
from contracts.topics import TARGETS, Names, Target
from index_store.blobs import DiskBlobs
from index_store.build import build
from index_store.index import Index
from index_store.rebuild import opened, specified
from index_store.snapshots import Snapshots
from index_store.spill import Spill
from streams.control import ActiveSpace, CandidateSpace, SpaceRef, no_candidate
from streams.starting import committing
from tidelens.runtime import Runtime, remember_model

sys.path.append(str(Path(__file__).parents[1]))
from wire import asked

SEED = 17
NOW_S = 1_800_000_000.0
PARTITIONS = 2
SPACE = HashEncoder(16, "artefact-v1").space
OTHER = HashEncoder(8, "artefact-v2").space
NAMES = Names("tidelens.", SPACE.name)
MURMUR2 = partitioner("murmur2")
TOPIC_IDS = {NAMES.embeddings(target): f"embeddings-{target}" for target in TARGETS}
# Rows sealed in each kind of index, in this order; what comes later stays a growing chunk.
KINDS = ("IVF4,SQ8", "IVF4,PQ8x4fs", "HNSW8_SQ8", "Flat")
IMAGES, CAPTIONS, DELETED, REPLACED = 230, 20, 30, 10
PIXEL = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGNgAAAAAgABSK+kcQAAAABJRU5ErkJggg=="
)


class Log:
    """Appends records to partitions, as a broker would."""

    def __init__(self) -> None:
        self.records: list[Record] = []
        self._ends: dict[TopicPartition, int] = {}

    def append(self, out: OutRecord) -> Record:
        number = out.partition
        if number is None:
            number = MURMUR2(out.key or b"", PARTITIONS)
        partition = TopicPartition(out.topic, number)
        offset = self._ends.get(partition, 0)
        self._ends[partition] = offset + 1
        at = int(NOW_S * 1000) + len(self.records)
        record = Record(out.topic, number, offset, at, out.key, out.value, list(out.headers))
        self.records.append(record)
        return record


def content(dice: random.Random) -> Iterable[tuple[Content | tuple[Target, str], str | None]]:
    """Items and deletes in their order, with the reason where an item is refused."""
    for n in range(IMAGES):
        ref, digest = f"file:///pictures/{n}.jpg", f"{n:064x}"
        metadata = {"n": n, "lang": dice.choice(["de", "en"]), "tags": ["a", None, "ü"]}
        item_id = f"p/{n} ü.jpg"
        yield Content(target="images", id=item_id, ref=ref, sha256=digest, metadata=metadata), None
    for n in range(CAPTIONS):
        text, item = f"caption {n}\u2028line two", f"p/{n} ü.jpg"
        body = {"text": text, "item": item, "metadata": {"n": n}}
        yield Content(target="captions", id=f"c{n}", **body), None
    for n in range(DELETED):
        yield ("images", f"p/{7 * n} ü.jpg"), "invalid_image: broken" if n == 0 else None
    for n in range(REPLACED):
        item_id = f"p/{7 * n + 1} ü.jpg"
        yield Content(target="images", id=item_id, image=PIXEL, item="new"), None
    yield ("captions", "c3"), None


def write_log(dice: random.Random) -> tuple[Log, list[Record]]:
    """Content and embeddings records, as a publisher and an encoder write them."""
    log, embeddings = Log(), []
    numbers = np.random.default_rng(SEED)
    for item, reason in content(dice):
        vector: Vectors = unit(numbers.standard_normal((1, SPACE.dim)))[0]
        if isinstance(item, Content):
            target, topic = item.target, NAMES.content(item.target)
            record = log.append(content_record(topic, item, producer="artefacts"))
            body = {"item": item.item, "text": item.text, "metadata": item.metadata}
            value = encode_value(SPACE, vector, **body)
        else:
            target = item[0]
            record, value = log.append(delete_record(NAMES.content(target), item[1])), None
        source = Source(f"content-{target}", record.partition, record.offset)
        topic = NAMES.embeddings(target)
        embeddings.append(log.append(embedding_record(topic, record, source, value, reason=reason)))
    return log, embeddings


def add_letters(log: Log) -> None:
    """A whole letter, a truncated one, and a mark."""
    refused = RejectedRecord("invalid_json", "value: not JSON", field="value")
    for bytes_max in (10_000, 200):
        original = Record(NAMES.content("captions"), 1, 99, 5, b"bad", b"{" * 500, [("a", b"\xff")])
        added: dict[str, Any] = {"stage": "encode", "attempts": 2, "bytes_max": bytes_max}
        if "space" in dead_letter_record.__annotations__:  # since letters name their space
            added["space"] = SPACE.name
        log.append(dead_letter_record(NAMES.dead_letters, original, refused, **added))
    letter = read_letter(log.records[-2])
    assert letter is not None
    log.append(mark_record(NAMES.dead_letters, letter, "discarded"))


def add_control(log: Log) -> None:
    """Each key with each kind of value."""
    old, new = SpaceRef.of(SPACE, "hash"), SpaceRef.of(OTHER, "hash:8")
    for record in (
        ActiveSpace(old, None, NOW_S).record(NAMES.control),
        CandidateSpace(new, NOW_S + 1).record(NAMES.control),
        CandidateSpace(new, NOW_S + 1, NOW_S + 2).record(NAMES.control),
        ActiveSpace(new, old, NOW_S + 3).record(NAMES.control),
        no_candidate(NAMES.control),
    ):
        log.append(record)


async def fill(index: Index, embeddings: Sequence[Record], spill: Spill) -> None:
    """Apply the records, and seal a part of them in each kind of index."""
    step = IMAGES // (len(KINDS) + 1)
    for n in range(len(KINDS) + 1):
        last = n == len(KINDS)
        _apply(index, embeddings[n * step : None if last else (n + 1) * step])
        if last:
            return
        sealing = index.seal("images", [])
        async with spill.building(f"part-{n}", sealing.parts) as out:
            spec = await specified(
                index,
                "images",
                sealing,
                spill,
                out,
                kind=KINDS[n],
                threads=1,
                recent=unit(np.random.default_rng(n).standard_normal((3, SPACE.dim))),
            )
            build(spec)
            index.swap("images", sealing, opened(f"part-{n}", out, SPACE.dim))


def _apply(index: Index, records: Sequence[Record]) -> None:
    fetched = Fetched()
    for record in records:
        partition = TopicPartition(record.topic, record.partition)
        fetched.records.setdefault(partition, []).append(record)
        fetched.positions[partition] = record.offset + 1
    index.apply(fetched)
    assert not index.rejected
    for partition in fetched.records:
        index.caught_up(partition, NOW_S)


async def write_snapshot(out: Path, embeddings: Sequence[Record]) -> dict[str, Any]:
    counts = dict.fromkeys(TARGETS, PARTITIONS)
    index = Index(SPACE, NAMES, counts, TOPIC_IDS, chunk_rows=64)
    spill = Spill(out / "spill")
    await fill(index, embeddings, spill)
    store = DiskBlobs(out / "snapshots")
    name = await Snapshots(store, f"{SPACE.name}/0/0/", spill, kept=1).write(index)
    return {"name": name, "digests": index.digests(), "as_of": asdict(index.as_of())}


def as_json(record: Record) -> bytes:
    def text(data: bytes | None) -> str | None:
        return None if data is None else base64.b64encode(data).decode()

    headers = [[name, text(value)] for name, value in record.headers]
    place = [record.topic, record.partition, record.offset, record.timestamp_ms]
    return orjson.dumps([*place, text(record.key), text(record.value), headers])


async def make(out: Path) -> None:
    os.environ["XDG_CACHE_HOME"] = str(out / "cache")
    dice = random.Random(SEED)
    time.time = lambda: NOW_S
    time.time_ns = lambda: int(NOW_S * 1e9)
    uuid.uuid4 = lambda: uuid.UUID(int=dice.getrandbits(128), version=4)
    faiss.omp_set_num_threads(1)

    log, embeddings = write_log(dice)
    add_letters(log)
    add_control(log)
    (out / "records.jsonl").write_bytes(b"\n".join(map(as_json, log.records)) + b"\n")
    snapshot = await write_snapshot(out, embeddings)

    Runtime(
        brokers="127.0.0.1:9092",
        url="http://127.0.0.1:8080",
        pid=4_194_303,
        space=SPACE.name,
        model="hash",
        metrics_port=8081,
        children={"kafka": 11, "encode": 12},
    ).write(out)
    remember_model(out, "hash")
    choice = {"precision": "int8", "pictures": 8, "texts": 32, "compiled": False}
    kept.add("Some processor x2 | some/model@1 | torch-1 transformers-1", choice)

    committed = committing(41, "content-images", int(NOW_S * 1000))
    as_of = AsOf(SPACE.name, "epoch-1", {"images": [3, 4], "captions": [5, 6]})
    texts = {
        "commit_metadata": committed.metadata,
        "cursor": Cursor(as_of, "query-digest", "hits-digest").encode(),
        "token": RecordPosition(NAMES.content("captions"), 1, 7)._asdict(),
    }
    about = {"snapshot": snapshot, "texts": texts, "wire": await asked()}
    (out / "about.json").write_bytes(orjson.dumps(about, option=orjson.OPT_INDENT_2))
    (out / "cache" / "tidelens" / "precision.json").rename(out / "precision.json")


def main() -> None:
    out = Path(sys.argv[1])
    out.mkdir(parents=True)
    asyncio.run(make(out))
    for left in ("spill", "cache"):
        for path in sorted((out / left).rglob("*"), reverse=True):
            path.rmdir() if path.is_dir() else path.unlink()
        (out / left).rmdir()


if __name__ == "__main__":
    main()
