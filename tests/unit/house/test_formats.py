"""The versions in docs/formats.md are those that are written; newer ones are refused by name."""

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest
from aiokafka import OffsetAndMetadata

from contracts.errors import (
    ConfigurationError,
    RejectedRecord,
    RejectedRequest,
    SnapshotRefused,
    UnknownFormat,
)
from contracts.events import control_record, embedding_record
from contracts.events.content_event import EVENT_TYPES, read_content
from contracts.events.control_record import ActiveSpace, CandidateSpace, SpaceRef
from contracts.events.format_version import from_members, unknown_version
from contracts.events.record import Record
from contracts.schemas import asyncapi
from contracts.testing.encoder import HashEncoder
from contracts.wire import cursor
from contracts.wire.as_of import AsOf
from contracts.wire.cursor import Cursor
from index_store.ann.faiss_index import OperatingPoint
from index_store.segment import columns
from index_store.snapshot import manifest
from streams.ownership import commit_metadata
from streams.registry.control_topic import Control, ControlFold
from tests.kits.index_kit import filled, vectors
from tidelens.runtime import run_file
from tidelens.runtime.run_file import Runtime

SPACE = HashEncoder().space
PAGE = Path(__file__).parents[3] / "docs" / "formats.md"
WRITTEN: dict[str, int | str] = {
    "content event": int(EVENT_TYPES["images"][-1]),
    "embeddings record": embedding_record.VERSION,
    "dead letter and mark": 1,
    "control record": control_record.VERSION,
    "commit metadata of encoders": commit_metadata.VERSION,
    "snapshot manifest": manifest.FORMAT,
    "snapshot parts": manifest.FORMAT,
    "run.json": run_file.VERSION,
    "kept precisions": 1,
    "active-model": 1,
    "live cursor": cursor.VERSION,
    "HTTP and WebSocket": 1,
    "schemas": asyncapi.VERSION,
}
RUNNING = Runtime("127.0.0.1:1", "http://127.0.0.1:2", os.getpid(), "hash-v1", "hash", 3)


def test_the_page_names_what_is_written() -> None:
    rows = re.findall(r"^\| ([^|]+) \| ([0-9.]+) \|", PAGE.read_text(), re.MULTILINE)
    assert dict(rows) == {artefact: str(version) for artefact, version in WRITTEN.items()}


def test_the_sentence_names_artefact_version_and_versions_known() -> None:
    said = unknown_version("some file", 3, 1, 2)
    assert "some file: version 3 " in said and said.endswith("reads version 1 and 2")


def newer_content() -> None:
    newer = EVENT_TYPES["images"].replace("v1", "v2").encode()
    read_content("images", Record("t", 0, 0, 1, b"a", b"{}", [("ce_type", newer)]))


def newer_embedding() -> None:
    value = embedding_record.encode_embedding(SPACE, np.zeros(SPACE.dim, np.float16))
    embedding_record.decode_embedding(SPACE, value[:3] + b"\x02" + value[4:])


def newer_manifest() -> None:
    manifest.read_manifest(orjson.dumps({"format": 3, "sha256": "", "manifest": {"new": 1}}))


def older_manifest() -> None:
    manifest.read_manifest(orjson.dumps({"format": 1}))


def newer_commit() -> None:
    commit_metadata.metadata_of(OffsetAndMetadata(1, '{"version": 2, "topic_id": "x"}'))


def newer_cursor() -> None:
    raw = orjson.dumps([2, "whatever", {"comes": "next"}])
    Cursor.decode(cursor.base64.urlsafe_b64encode(raw).decode())


@pytest.mark.parametrize(
    ("read", "error", "named"),
    [
        (newer_content, RejectedRecord, ["tidelens.image.v1", "tidelens.image.v2"]),
        (newer_embedding, RejectedRecord, ["embeddings record: version 2", "reads version 1"]),
        (newer_manifest, UnknownFormat, ["snapshot manifest: version 3", "reads version 2"]),
        (older_manifest, UnknownFormat, ["snapshot manifest: version 1", "reads version 2"]),
        (newer_commit, ConfigurationError, ["commit metadata", "version 2", "reads version 1"]),
        (newer_cursor, RejectedRequest, ["cursor: version 2", "reads version 1"]),
    ],
)
def test_another_version_is_refused_by_name(
    read: Callable[[], None], error: type[Exception], named: list[str]
) -> None:
    with pytest.raises(error) as refused:
        read()
    assert all(text in str(refused.value) for text in named), str(refused.value)


def test_the_code_of_a_newer_embedding_is_its_own() -> None:
    with pytest.raises(RejectedRecord) as refused:
        newer_embedding()
    assert refused.value.code == "unknown_embedding_version"
    assert (refused.value.field, refused.value.limit, refused.value.value) == ("version", 1, 2)


@pytest.mark.anyio
async def test_a_newer_control_record_changes_nothing() -> None:
    ref = SpaceRef.of(SPACE, "hash")
    known = Control(ActiveSpace(ref, None, 1.0), CandidateSpace(ref, 1.0))
    standing = ControlFold(exists)
    for record in (known.active.record("c"), known.candidate.record("c")):  # type: ignore[union-attr]
        assert record.value is not None
        added = orjson.dumps(orjson.loads(record.value) | {"version": 1, "added_later": 1})
        standing.add(Record("c", 0, 1, 1, record.key, added, []))
        newer = orjson.dumps(orjson.loads(record.value) | {"version": 2, "at": 9.0})
        standing.add(Record("c", 0, 2, 1, record.key, newer, []))
    found = await standing.current()
    assert found == known
    assert len(found.refused) == 2
    for refused in found.refused:
        assert "control record: version 2" in refused.message
        assert "reads version 1" in refused.message


async def exists(_: SpaceRef) -> None:
    """Judge every space to be there."""


def test_run_json_of_a_newer_version_is_an_error_and_added_members_are_none(tmp_path: Path) -> None:
    RUNNING.write(tmp_path)
    file = tmp_path / "run.json"
    body = orjson.loads(file.read_bytes())
    file.write_bytes(orjson.dumps(body | {"added_later": {"a": 1}}))
    assert Runtime.read(tmp_path) == RUNNING
    file.write_bytes(orjson.dumps({"pid": os.getpid(), "version": 2}))
    with pytest.raises(ConfigurationError, match=r"run\.json: version 2 .* reads version 1"):
        Runtime.read(tmp_path)
    # The file of an `up` that was killed does not matter.
    file.write_bytes(orjson.dumps({"pid": 4_194_304_000, "version": 2}))
    assert Runtime.read(tmp_path) is None


def test_what_was_added_to_a_point_of_a_snapshot_is_passed_over() -> None:
    point: dict[str, Any] = {"effort": 4, "depth": 2, "recall": 0.9, "ms": 0.1, "added_later": 1}
    assert from_members(OperatingPoint, point) == OperatingPoint(4, 2, 0.9, 0.1)


def test_columns_may_be_added_and_none_may_lack(tmp_path: Path) -> None:
    [part] = filled(vectors(3)).view.readers["images"]
    arrays = columns.pack_columns(part.rows, 3)
    columns.save_columns(arrays | {"added.later": np.zeros(3, np.uint8)}, tmp_path / "more")
    assert set(arrays) < set(columns.load_columns(tmp_path / "more"))
    for name in arrays:
        less = {key: array for key, array in arrays.items() if key != name}
        columns.save_columns(less, tmp_path / "less")
        with pytest.raises(SnapshotRefused, match=f"the column {name} is missing"):
            columns.load_columns(tmp_path / "less")


def test_commits_may_gain_members_and_other_tools_have_none() -> None:
    read = commit_metadata.metadata_of
    assert read(OffsetAndMetadata(1, '{"topic_id": "x", "new": 1}'))["topic_id"] == "x"
    for other in ("", "[]", "text", "1"):
        assert read(OffsetAndMetadata(1, other)) == {}


def test_a_foreign_cursor_is_refused_as_such() -> None:
    as_of = AsOf("s", "e", {"images": [1]})
    assert Cursor.decode(Cursor(as_of, "q", "h").encode()) == Cursor(as_of, "q", "h")
    for raw in ([], [True, "s", "e", {}, "q", "h"], ["1", 2], {"a": 1}, [1, "s"]):
        text = cursor.base64.urlsafe_b64encode(orjson.dumps(raw)).decode()
        with pytest.raises(RejectedRequest) as refused:
            Cursor.decode(text)
        assert refused.value.code == "invalid_cursor"
