"""Files of earlier versions are read by this one, with the right values."""

import base64
import os
import shutil
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import orjson
import pytest
from aiokafka import OffsetAndMetadata
from pydantic import TypeAdapter

from consumers.models.tuning import results_file
from contracts.events.content_event import read_content
from contracts.events.control_record import ActiveSpace, CandidateSpace, SpaceRef
from contracts.events.dead_letter import original_headers, read_letter, read_mark
from contracts.events.record import Fetched, Record, RecordPosition, TopicPartition
from contracts.ports.hit import VectorQuery
from contracts.score import Vectors, unit
from contracts.testing.encoder import HashEncoder
from contracts.topics import TARGETS, Names, Target
from contracts.wire.as_of import AsOf
from contracts.wire.client_messages import Token
from contracts.wire.cursor import Cursor
from contracts.wire.delta import apply_changes
from contracts.wire.server_messages import AnswerMessage, ServerMessage
from index_store.index import Index
from index_store.snapshot.store import SnapshotStore
from index_store.storage.local import LocalBlobStore
from streams.ownership.commit_metadata import CommittedOffset, TopicPair
from streams.registry.control_topic import Control, ControlFold
from tests.artefacts.wire import asked
from tests.kits.index_kit import brute_force, new_spill, pairs
from tidelens.runtime.run_file import Runtime, remembered_model

pytestmark = pytest.mark.anyio

FOLDERS = sorted(path for path in (Path(__file__).parents[2] / "artefacts").glob("*/"))
FOLDERS = [folder for folder in FOLDERS if (folder / "about.json").exists()]
SPACE = HashEncoder(16, "artefact-v1").space
NAMES = Names("tidelens.", SPACE.name)
PARTITIONS = 2


class Item(NamedTuple):
    """A live item by the plainest reading of its record's bytes."""

    vector: Vectors
    body: Mapping[str, Any]
    source: str


@pytest.fixture(params=FOLDERS, ids=lambda folder: folder.name)
def folder(request: pytest.FixtureRequest) -> Path:
    found: Path = request.param
    return found


@pytest.fixture
def about(folder: Path) -> Any:
    return orjson.loads((folder / "about.json").read_bytes())


@pytest.fixture
def records(folder: Path) -> list[Record]:
    return [_record(line) for line in (folder / "records.jsonl").read_bytes().splitlines()]


def _record(line: bytes) -> Record:
    *place, key, value, headers = orjson.loads(line)
    raw = [(name, base64.b64decode(text)) for name, text in headers]
    return Record(*place, *(b and base64.b64decode(b) for b in (key, value)), raw)


def in_topic(records: list[Record], topic: str) -> list[Record]:
    return [record for record in records if record.topic == topic]


def live_items(records: list[Record], target: Target) -> dict[str, Item]:
    """Read the bytes as docs/records.md defines them, without any code of Tidelens."""
    items: dict[str, Item] = {}
    for record in in_topic(records, NAMES.embeddings(target)):
        assert record.key is not None
        item_id = record.key.decode()
        if record.value is None:
            items.pop(item_id, None)
            continue
        magic, _, dim, zero = struct.unpack_from("<4s8sHH", record.value)
        assert (magic, dim, zero) == (b"TLE\x01", 16, 0)
        vector = np.frombuffer(record.value, "<f2", dim, offset=16)
        source = dict(record.headers)["source"].decode()
        items[item_id] = Item(vector, orjson.loads(record.value[16 + 2 * dim :]), source)
    return items


def empty_index() -> Index:
    ids = {NAMES.embeddings(target): f"embeddings-{target}" for target in TARGETS}
    return Index(SPACE, NAMES, dict.fromkeys(TARGETS, PARTITIONS), ids)


@pytest.fixture
async def restored(folder: Path, tmp_path: Path) -> Index:
    shutil.copytree(folder / "snapshots", tmp_path / "store")
    store = LocalBlobStore(tmp_path / "store")
    snapshots = SnapshotStore(store, f"{SPACE.name}/0/0/", new_spill(), kept=1)
    index = await snapshots.restore(empty_index())
    assert snapshots.refused == {}
    assert index is not None
    return index


async def test_a_snapshot_holds_what_its_records_say(
    restored: Index, records: list[Record], about: Any
) -> None:
    assert restored.digests_match()
    assert restored.digests() == about["snapshot"]["digests"]
    assert restored.as_of() == AsOf(**about["snapshot"]["as_of"])
    assert [restored.count(target) for target in TARGETS] == [200, 19]
    for target in TARGETS:
        items = live_items(records, target)
        assert len(items) == restored.count(target)
        for item_id, item in items.items():
            found = restored.get(target, item_id)
            assert found is not None and found.vector is not None
            assert found.vector.tobytes() == item.vector.tobytes()
            assert found.item == item.body.get("item")
            assert found.text == item.body.get("text")
            assert (found.metadata or {}) == item.body.get("metadata", {})
            assert item.source == (
                f"content-{target}:{found.source.partition}:{found.source.offset}"
            )
    deleted = {f"p/{7 * n} ü.jpg" for n in range(30)}
    assert not any(restored.get("images", item_id) for item_id in deleted)
    assert restored.get("captions", "c3") is None
    first = in_topic(records, NAMES.content("images"))
    [refused] = [r for r in first if r.key == "p/0 ü.jpg".encode() and r.value is None]
    reason = restored.rejection_reason("images", refused.partition, refused.offset)
    assert reason == "invalid_image: broken"


async def test_a_snapshot_is_searched_as_brute_force_does(
    restored: Index, records: list[Record]
) -> None:
    asked = unit(np.random.default_rng(3).standard_normal((5, SPACE.dim)))
    for target in TARGETS:
        items = live_items(records, target)
        rows = {key: (item.vector, item.body.get("item")) for key, item in items.items()}
        queries = [VectorQuery(target, vector, k=30, exact=True) for vector in asked]
        for query, hits in zip(queries, restored.view.search(queries), strict=True):
            assert pairs(hits) == brute_force(rows, query)


async def test_an_index_of_each_type_finds_what_a_scan_finds(restored: Index) -> None:
    parts = restored.view.readers["images"]
    kinds = [None if part.ann is None else getattr(part.ann, "index_type", None) for part in parts]
    assert sorted(kinds, key=str) == ["HNSW8_SQ8", "IVF4,PQ8x4fs", "IVF4,SQ8", None, None]
    queries = unit(np.random.default_rng(4).standard_normal((3, SPACE.dim))).astype(np.float32)
    for part in parts:
        ann: Any = part.ann
        if ann is None:
            continue
        assert ann.points
        # At the largest effort, with every row scored by its float16 vector, nothing is missed.
        _, found = ann.search_with(queries, 5, ann.rows, ann.effort_max)
        exact = np.argsort(-(queries @ part.rows.vectors.astype(np.float32).T), axis=1)[:, :5]
        assert found.tolist() == exact.tolist(), ann.index_type


async def test_a_replay_of_the_records_comes_to_the_same_state(
    records: list[Record], about: Any
) -> None:
    index, fetched = empty_index(), Fetched()
    for target in TARGETS:
        for record in in_topic(records, NAMES.embeddings(target)):
            partition = TopicPartition(record.topic, record.partition)
            fetched.records.setdefault(partition, []).append(record)
            fetched.positions[partition] = record.offset + 1
    index.apply(fetched)
    assert index.rejected == []
    assert index.digests() == about["snapshot"]["digests"]


async def test_content_is_read(records: list[Record]) -> None:
    captions = [read_content("captions", r) for r in in_topic(records, NAMES.content("captions"))]
    first, last = captions[0], captions[-1]
    assert first is not None and last is None
    assert (first.id, first.text) == ("c0", "caption 0\u2028line two")
    assert (first.item, first.metadata) == ("p/0 ü.jpg", {"n": 0})
    pictures = in_topic(records, NAMES.content("images"))
    by_key = {record.key: read_content("images", record) for record in pictures}
    [raw, reference] = [by_key[f"p/{n} ü.jpg".encode()] for n in (1, 2)]
    assert raw is not None and raw.image is not None and raw.image.startswith(b"\x89PNG")
    assert raw.item == "new"
    assert reference is not None and reference.ref == "file:///pictures/2.jpg"
    assert reference.sha256 == f"{2:064x}"
    assert sum(content is None for content in by_key.values()) == 30


async def test_dead_letters_and_marks_are_read(records: list[Record]) -> None:
    whole, short, marked = in_topic(records, NAMES.dead_letters)
    letter, truncated, mark = read_letter(whole), read_letter(short), read_mark(marked)
    assert letter is not None and truncated is not None and mark is not None
    assert (letter.reason, letter.message) == ("invalid_json", "value: not JSON")
    assert (letter.stage, letter.attempts) == ("encode", 2)
    assert letter.source == RecordPosition(NAMES.content("captions"), 1, 99)
    assert letter.value_bytes == 500 and letter.truncated is None
    assert original_headers(whole) == [("a", b"\xff")]
    assert truncated.truncated is not None and truncated.truncated > 500
    assert mark == (letter.id, "discarded")


async def test_control_records_are_read(records: list[Record]) -> None:
    async def exists(_: SpaceRef) -> None:
        """Both spaces are there."""

    now, standing, states = 1_800_000_000.0, ControlFold(exists), []
    for record in in_topic(records, NAMES.control):
        standing.add(record)
        states.append(await standing.current())
    assert states[-1].refused == ()
    old = SpaceRef.of(SPACE, "hash")
    new = SpaceRef.of(HashEncoder(8, "artefact-v2").space, "hash:8")
    first = ActiveSpace(old, None, now)
    assert states == [
        Control(first),
        Control(first, CandidateSpace(new, now + 1)),
        Control(first, CandidateSpace(new, now + 1, now + 2)),
        Control(ActiveSpace(new, old, now + 3), CandidateSpace(new, now + 1, now + 2)),
        Control(ActiveSpace(new, old, now + 3)),
    ]


def test_files_of_a_running_up_are_read(folder: Path, tmp_path: Path) -> None:
    written = orjson.loads((folder / "run.json").read_bytes())
    # Only what lives is believed.
    (tmp_path / "run.json").write_bytes(orjson.dumps(written | {"pid": os.getpid()}))
    runtime = Runtime.read(tmp_path)
    assert runtime is not None
    assert (runtime.brokers, runtime.url) == ("127.0.0.1:9092", "http://127.0.0.1:8080")
    assert (runtime.space, runtime.model, runtime.metrics_port) == ("artefact-v1", "hash", 8081)
    assert runtime.children == {"kafka": 11, "encode": 12}
    assert remembered_model(folder) == "hash"


def test_kept_precisions_are_read(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    (tmp_path / "tidelens").mkdir()
    shutil.copy(folder / "precision.json", tmp_path / "tidelens")
    [choice] = results_file.load_all().values()
    assert choice == {"precision": "int8", "pictures": 8, "texts": 32, "compiled": False}


def test_a_cache_that_cannot_be_written_is_no_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing can be deleted there either, such as blobs that were never written."""
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    results_file.save_entry("key", {"precision": "float32"})
    assert results_file.load_all() == {}


async def test_commits_cursors_and_tokens_are_read(about: Any) -> None:
    texts = about["texts"]
    commit = CommittedOffset.read(OffsetAndMetadata(41, texts["commit_metadata"]))
    assert commit == CommittedOffset(41, "content-images", None, 1_800_000_000_000)
    assert commit.recreated_topic(TopicPair("content-images", "any")) is None
    assert commit.recreated_topic(TopicPair("another", "any")) == "content topic"
    as_of = AsOf(SPACE.name, "epoch-1", {"images": [3, 4], "captions": [5, 6]})
    assert Cursor.decode(texts["cursor"]) == Cursor(as_of, "query-digest", "hits-digest")
    token = TypeAdapter(Token).validate_python(texts["token"])
    assert (token.topic, token.partition, token.offset) == ("tidelens.captions", 1, 7)


def require_members(old: Any, new: Any, path: str) -> None:
    """Require every member of an old answer: members may be added, none removed or retyped."""
    if isinstance(old, dict):
        assert isinstance(new, dict), path
        for name, value in old.items():
            assert name in new, f"{path}.{name}"
            require_members(value, new[name], f"{path}.{name}")
    elif isinstance(old, list):
        assert isinstance(new, list) and len(new) >= min(1, len(old)), path
        for n, (one, other) in enumerate(zip(old, new, strict=False)):
            require_members(one, other, f"{path}[{n}]")
    elif old is not None:
        assert type(old) is type(new), path


async def test_the_wire_answers_as_it_did(about: Any) -> None:
    *old, old_live = about["wire"]
    *new, new_live = await asked()
    for then, now in zip(old, new, strict=True):
        asked_for = f"{now['method']} {now['path']} {now['body']}"
        assert then["status"] == now["status"], asked_for
        assert then["type"] == now["type"], asked_for
        require_members(then["answer"], now["answer"], asked_for)
    for then, now in ((old[0], new[0]), (old[1], new[1])):
        for one, other in zip(_answers(then), _answers(now), strict=True):
            assert one["hits"] == other["hits"]
    require_members(old_live, new_live, "live")


def _answers(exchange: Any) -> list[Any]:
    answer = exchange["answer"]
    answers: list[Any] = answer if isinstance(answer, list) else [answer]
    return answers


async def test_what_the_wire_said_is_understood(about: Any) -> None:
    for exchange in about["wire"][:2]:
        for answer in _answers(exchange):
            TypeAdapter(AnswerMessage).validate_python(answer)
    snapshot, delta, *rest = about["wire"][-1]["live"]
    for message in (snapshot, delta, *rest):
        TypeAdapter(ServerMessage).validate_python(message)
    hits = apply_changes(snapshot["hits"], delta["changes"])
    assert [hit["id"] for hit in hits] == ["a", "n"]
    assert Cursor.decode(delta["cursor"]).as_of.covers(Cursor.decode(snapshot["cursor"]).as_of)
