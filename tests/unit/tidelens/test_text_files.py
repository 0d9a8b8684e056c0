"""A byte-order mark at the head of a file is not an error, in whatever file it stands."""

import codecs
import io
from pathlib import Path

import click
import pytest

from contracts.errors import ConfigurationError, RejectedRequest
from contracts.events.content_event import Content, read_content
from contracts.events.record import Record
from contracts.settings import Settings
from contracts.wire.parser import parse_json
from tidelens.cli.base.query import _read_object
from tidelens.ingest.content_files import RefusedContent
from tidelens.ingest.file_types import sources
from tidelens.ingest.publisher import PublishInput, entries_of
from tidelens.ingest.text_files import decode_text, lines_of, read_lines

MARKED = {
    "no mark": lambda text: text.encode(),
    "UTF-8": lambda text: codecs.BOM_UTF8 + text.encode(),
    "UTF-16, little-endian": lambda text: codecs.BOM_UTF16_LE + text.encode("utf-16-le"),
    "UTF-16, big-endian": lambda text: codecs.BOM_UTF16_BE + text.encode("utf-16-be"),
}
TEXT = "ein Käfer, 甲虫 \N{BEETLE}"


def entries(path: Path) -> list[PublishInput]:
    return list(entries_of(sources([path]), Settings()))


@pytest.mark.parametrize("mark", MARKED)
def test_texts_lines_and_lists(mark: str, tmp_path: Path) -> None:
    made = MARKED[mark]
    assert decode_text(made(TEXT)) == TEXT
    assert list(lines_of(io.BytesIO(made(f"{TEXT}\r\n\n{TEXT}")), 99)) == [
        f"{TEXT}\r\n".encode(),
        b"\n",
        TEXT.encode(),
    ]
    path = tmp_path / "list"
    path.write_bytes(made(f"{TEXT}\r\n\n  two \n"))
    assert read_lines(path, "--labels") == [TEXT, "two"]


@pytest.mark.parametrize("mark", MARKED)
def test_captions_json_lines_and_queries(mark: str, tmp_path: Path) -> None:
    (tmp_path / "one.txt").write_bytes(MARKED[mark](f"{TEXT}\n"))
    [caption] = entries(tmp_path / "one.txt")
    assert isinstance(caption, Content) and caption.text == TEXT
    line = f'{{"id": "a", "text": "{TEXT}"}}\n'
    (tmp_path / "items.jsonl").write_bytes(MARKED[mark](line + line.replace('"a"', '"b"')))
    assert [entry.id for entry in entries(tmp_path / "items.jsonl") if type(entry) is Content] == [
        "a",
        "b",
    ]
    query = tmp_path / "query.json"
    query.write_bytes(MARKED[mark](f'{{"text": "{TEXT}"}}'))
    option = click.Option(["--query"])
    context = click.Context(click.Command("search"))
    assert _read_object(context, option, f"@{query}") == {"text": TEXT}
    assert _read_object(context, option, '\ufeff{"text": "x"}') == {"text": "x"}


def test_what_is_neither(tmp_path: Path) -> None:
    for data in (b"\xff\xfea", b"\xfc"):
        (tmp_path / "one.txt").write_bytes(data)
        [refused] = entries(tmp_path / "one.txt")
        assert isinstance(refused, RefusedContent) and refused.code == "not_text"
        with pytest.raises(ConfigurationError, match=r"--labels: .*one\.txt: not UTF-"):
            read_lines(tmp_path / "one.txt", "--labels")
    path = tmp_path / "items.jsonl"
    path.write_bytes(codecs.BOM_UTF16_LE + '{"id": "a", "text": "x"}\n'.encode("utf-16-le") + b"a")
    found = entries(path)
    assert [getattr(entry, "code", "") for entry in found] == ["", "not_text"]


def test_a_line_above_the_limit_comes_cut_off() -> None:
    for made in MARKED.values():
        first = next(lines_of(io.BytesIO(made("x" * 50 + "\n")), 20))
        assert len(first) == 21


@pytest.mark.parametrize("mark", [b"", codecs.BOM_UTF8])
def test_bodies_and_records(mark: bytes) -> None:
    assert parse_json(mark + b'{"text": "x"}') == {"text": "x"}
    assert parse_json((mark + b'{"text": "x"}').decode()) == {"text": "x"}
    headers = [("ce_type", b"tidelens.caption.v1"), ("content-type", b"application/json")]
    record = Record("c", 0, 0, 0, b"a", mark + b'{"text": "x"}', headers)
    content = read_content("captions", record)
    assert content is not None and content.text == "x"
    with pytest.raises(RejectedRequest, match="not JSON"):
        parse_json(codecs.BOM_UTF8 * 5_000 + b"{}")
    with pytest.raises(RejectedRequest, match="64 bits"):
        parse_json(mark + b'{"a": 123456789012345678901234567890}')
