"""Texts of blanks only are refused at every door, naming the field: their vectors say nothing."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import pytest
from click.testing import CliRunner

from contracts.errors import ConfigurationError, RejectedRecord, RejectedRequest
from contracts.events.content_event import EVENT_TYPES, read_content
from contracts.events.record import Record
from contracts.settings import Settings, load
from contracts.wire.parser import (
    parse_classify,
    parse_client_message,
    parse_new_items,
    parse_queries,
)
from tests.kits.api_kit import Kit
from tidelens.__main__ import LazyGroup
from tidelens.ingest.content_files import RefusedContent, content_events_of
from tidelens.ingest.file_types import PublishSource
from tidelens.ingest.text_files import read_lines

BLANKS = ["", "   ", "\t\n", "\u3000\xa0", "\u200b\ufeff", "\x00\x1b", "\u202e", "\u2800"]


def kafka(text: str) -> None:
    headers = [("ce_type", EVENT_TYPES["captions"].encode())]
    read_content("captions", Record("t", 0, 0, 0, b"a", orjson.dumps({"text": text}), headers))


def http(text: str) -> None:
    parse_new_items({"target": "captions", "id": "a", "text": text}, items_max=1)


def query(text: str) -> None:
    parse_queries({"text": text}, queries_max=1)


def fuse(text: str) -> None:
    parse_queries({"fuse": [{"text": "a"}, {"text": text}]}, queries_max=1)


def live(text: str) -> None:
    message = {"op": "subscribe", "sub": "s", "query": {"text": text}}
    parse_client_message(orjson.dumps(message).decode())


def classify(text: str) -> None:
    parse_classify({"text": text, "labels": ["a"]})


def label(text: str) -> None:
    parse_classify({"text": "a", "labels": ["b", text]})


DOORS: list[tuple[Callable[[str], None], str]] = [
    (kafka, "text"),
    (http, "text"),
    (query, "text"),
    (fuse, "fuse.1.text"),
    (live, "query.text"),
    (classify, "text"),
    (label, "labels.1"),
]


@pytest.mark.parametrize(("door", "field"), DOORS)
def test_a_blank_text_is_refused_and_named(door: Callable[[str], None], field: str) -> None:
    for blank in BLANKS:
        with pytest.raises((RejectedRecord, RejectedRequest)) as caught:
            door(blank)
        assert caught.value.field is not None and caught.value.field.endswith(field)
        assert field in caught.value.message
        door(f"{blank}a{blank}")


@pytest.mark.parametrize("blank", BLANKS)
def test_files(tmp_path: Path, blank: str) -> None:
    text, lines = tmp_path / "a.txt", tmp_path / "a.jsonl"
    text.write_text(blank)
    lines.write_bytes(orjson.dumps({"id": "a", "text": blank}) + b"\n")
    for path in (text, lines):
        [refused] = content_events_of(PublishSource(path, tmp_path), Settings())
        assert isinstance(refused, RefusedContent)
        assert (refused.code, refused.message.partition(":")[0]) == ("invalid_content", "text")


def test_labels_of_the_encoder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TIDELENS_LABELS", '["cat", " \\u200b"]')
    with pytest.raises(ConfigurationError, match=r"^TIDELENS_LABELS: .*blanks"):
        load()


@pytest.mark.anyio
async def test_over_http_and_as_an_event_stream() -> None:
    kit = Kit()
    answers = [
        await kit.http.post("/v1/search", json={"text": " \u200b"}),
        await kit.http.get("/v1/live", params={"q": "   ", "target": "captions"}),
        await kit.http.post("/v1/items", json={"target": "captions", "id": "a", "text": " "}),
        await kit.http.post("/v1/classify", json={"text": " ", "labels": ["a"]}),
    ]
    for answer in answers:
        assert answer.status_code == 400
        assert answer.json()["field"].endswith("text")
        assert "blanks" in answer.text
    assert not kit.log.records


@pytest.mark.parametrize("command", [["search"], ["watch"], ["classify", "--label", "a"]])
def test_commands_ask_nobody(command: list[str]) -> None:
    arguments: Any = [*command, "--url", "http://127.0.0.1:1", "   "]
    result = CliRunner().invoke(LazyGroup(), arguments)
    assert isinstance(result.exception, RejectedRequest)
    assert result.exception.field == "text"


def test_blank_lines_of_a_file_of_labels_are_left_out(tmp_path: Path) -> None:
    path = tmp_path / "lines"
    path.write_text("a\n \u200b \n\ufeff\n b \n")
    assert read_lines(path, "--queries") == ["a", "b"]
