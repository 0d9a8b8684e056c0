"""Publishing: files to events with stable ids, in order, with what failed listed."""

import base64
import hashlib
from collections.abc import Sequence
from pathlib import Path

import orjson
import pytest
from aiokafka.errors import KafkaConnectionError, MessageSizeTooLargeError

from contracts.events.content_event import Content, read_content
from contracts.events.record import OutRecord, RecordPosition
from contracts.settings import Settings
from contracts.testing.event_log import MemoryEventLog
from contracts.topics import Names
from tidelens.ingest import publisher
from tidelens.ingest.content_files import RefusedContent, content_events_of
from tidelens.ingest.file_types import PublishSource, SkippedFile, sources
from tidelens.ingest.folder_watch import StableFiles, scan
from tidelens.ingest.publisher import delete, entries_of, publish

JPEG = b"\xff\xd8\xff\xe0\0\x10JFIF\0"
PNG = b"\x89PNG\r\n\x1a\n\0\0\0\x0dIHDR"
SETTINGS = Settings(inline_bytes_max=100, image_bytes_max=1_000)
NAMES = Names("t.", "")


@pytest.fixture
def log() -> MemoryEventLog:
    return MemoryEventLog({NAMES.content("images"): 2, NAMES.content("captions"): 2})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Make a folder of two pictures, a caption, and files that are not published."""
    (tmp_path / "cats").mkdir()
    (tmp_path / "cats" / "one.jpg").write_bytes(JPEG + b"one")
    (tmp_path / "cats" / "one.txt").write_text(" a cat \n")
    (tmp_path / "Two.PNG").write_bytes(PNG + b"two")
    (tmp_path / "notes.md").write_text("no")
    (tmp_path / ".hidden.jpg").write_bytes(b"no")
    (tmp_path / ".git").mkdir()
    (tmp_path / ".git" / "x.jpg").write_bytes(b"no")
    return tmp_path


def all_of(
    *paths: Path, settings: Settings = SETTINGS
) -> list[Content | RefusedContent | SkippedFile]:
    return list(entries_of(sources(paths), settings))


def lines(tmp_path: Path, *objects: object) -> list[Content | RefusedContent | SkippedFile]:
    file = tmp_path / "items.jsonl"
    file.write_bytes(
        b"\n".join(raw if isinstance(raw, bytes) else orjson.dumps(raw) for raw in objects)
    )
    return all_of(file)


def test_a_folder_gives_pictures_and_captions_by_path(folder: Path) -> None:
    assert all_of(folder) == [
        SkippedFile("hidden"),
        SkippedFile("hidden"),
        Content(target="images", id="Two.PNG", image=PNG + b"two", item="Two"),
        SkippedFile(".md"),
        Content(target="images", id="cats/one.jpg", image=JPEG + b"one", item="cats/one"),
        Content(target="captions", id="cats/one.txt", text="a cat", item="cats/one"),
    ]


def test_a_file_by_itself_has_its_name_as_id(folder: Path) -> None:
    [content] = all_of(folder / "cats" / "one.jpg")
    assert isinstance(content, Content) and content.id == "one.jpg"


def test_above_the_inline_limit_a_reference_with_its_digest(tmp_path: Path) -> None:
    picture = tmp_path / "with space.jpg"
    picture.write_bytes(JPEG.ljust(101))
    [content] = all_of(picture)
    assert isinstance(content, Content) and content.image is None
    assert content.ref == picture.resolve().as_uri()
    assert content.sha256 == hashlib.sha256(JPEG.ljust(101)).hexdigest()


@pytest.mark.parametrize(
    ("name", "data", "code"),
    [
        ("empty.jpg", b"", "empty_file"),
        ("large.jpg", b"x" * 1_001, "image_too_large_bytes"),
        ("binary.txt", b"\xff\xfe\xfa", "not_text"),
        ("blank.txt", b" \n", "invalid_content"),
        ("long.txt", b"x" * 10_001, "invalid_content"),
        ("film.mp4", b"x", "unknown_kind"),
        ("gone.jpg", None, "unreadable"),
        ("text.jpg", b"a text", "image_format"),
        ("text.heic", b"\0\0\0\x18ftypisom", "image_format"),
        ("no-suffix", b"a text", "unknown_kind"),
        ("huge.txt", b"x" * 300_000, "invalid_content"),
    ],
)
def test_bad_files_are_refused_with_a_reason(
    tmp_path: Path, name: str, data: bytes | None, code: str
) -> None:
    if data is not None:
        (tmp_path / name).write_bytes(data)
    [refused] = all_of(tmp_path / name)
    assert isinstance(refused, RefusedContent)
    assert (refused.code, refused.where) == (code, str(tmp_path / name))


def test_a_name_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    path = Path(str(tmp_path) + "/bad\udcff.jpg")
    path.write_bytes(JPEG)
    [refused] = content_events_of(PublishSource(path, tmp_path), SETTINGS)
    assert isinstance(refused, RefusedContent)
    assert refused.code == "id_not_utf8"
    assert refused.where.endswith("bad\\xff.jpg")


def test_json_lines(tmp_path: Path) -> None:
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "a.jpg").write_bytes(JPEG)
    data = base64.b64encode(b"inline").decode()
    assert lines(
        tmp_path,
        {"id": "c1", "text": "a cat", "item": "i", "metadata": {"year": 2020}},
        b"",
        {"id": "p1", "image": "pictures/a.jpg", "item": "i"},
        {"image": "pictures/a.jpg"},
        {"id": "p2", "image": {"data": data}, "target": "images"},
        {"id": "p3", "image": {"ref": "file:///x.jpg", "sha256": "0" * 64}},
        {"id": "p4", "image": f"data:image/png;base64,{data}"},
    ) == [
        Content(target="captions", id="c1", text="a cat", item="i", metadata={"year": 2020}),
        Content(target="images", id="p1", image=JPEG, item="i"),
        Content(target="images", id="pictures/a.jpg", image=JPEG),
        Content(target="images", id="p2", image=b"inline"),
        Content(target="images", id="p3", ref="file:///x.jpg", sha256="0" * 64),
        Content(target="images", id="p4", image=b"inline"),
    ]


@pytest.mark.parametrize(
    ("line", "code"),
    [
        (b"{", "invalid_json"),
        (b"[]", "invalid_content"),
        (b"\xff", "invalid_json"),
        ({"text": "no id"}, "invalid_content"),
        ({"id": "", "text": "x"}, "empty_id"),
        ({"id": "a" * 513, "text": "x"}, "id_too_long"),
        ({"id": "a"}, "invalid_content"),
        ({"id": "a", "text": "x", "image": "b.jpg"}, "invalid_content"),
        ({"id": "a", "text": "x", "target": "images"}, "invalid_content"),
        ({"id": "a", "text": 5}, "invalid_content"),
        ({"id": "a", "text": "x", "caption": "typo"}, "invalid_content"),
        ({"id": "a", "text": "x", "metadata": {"a": "x" * 20_000}}, "invalid_content"),
        ({"id": "a", "image": "missing.jpg"}, "unreadable"),
        ({"id": "a", "image": {"data": "!"}}, "invalid_base64"),
        ({"id": "a", "image": {"data": "A" * 400}}, "image_too_large_bytes"),
        ({"id": "a", "image": {"ref": "file:///x"}}, "invalid_content"),
        ({"id": "a", "image": {"data": ""}}, "invalid_content"),
        (
            b'{"id": "a", "text": "x", "metadata": {"m": ' + b"[" * 300 + b"]" * 300 + b"}}",
            "invalid_content",
        ),
    ],
)
def test_a_bad_line_is_refused_and_the_next_one_read(
    tmp_path: Path, line: object, code: str
) -> None:
    refused, good = lines(tmp_path, line, {"id": "ok", "text": "fine"})
    assert isinstance(refused, RefusedContent)
    assert (refused.code, refused.where) == (code, f"{tmp_path}/items.jsonl:1")
    assert isinstance(good, Content)


@pytest.mark.anyio
async def test_what_is_published_reads_back_the_same(log: MemoryEventLog, folder: Path) -> None:
    counted: list[int] = []
    done = await publish(
        log, NAMES, entries_of(sources([folder]), SETTINGS), advance=counted.append
    )
    assert (done.records, done.refused, sum(counted)) == (3, [], 6)
    assert done.left_out == {"hidden": 2, ".md": 1}
    found = [
        read_content(target, record)
        for target in ("images", "captions")
        for partition in (0, 1)
        for record in log.records[(NAMES.content(target), partition)]  # type: ignore[index]
    ]
    assert sorted(c.id for c in found if c) == ["Two.PNG", "cats/one.jpg", "cats/one.txt"]


@pytest.mark.anyio
async def test_the_media_type_is_told(log: MemoryEventLog, folder: Path) -> None:
    await publish(log, NAMES, entries_of(sources([folder]), SETTINGS))
    types = {
        record.key: record.header("content-type")
        for records in log.records.values()
        for record in records
    }
    assert types == {
        b"Two.PNG": b"image/png",
        b"cats/one.jpg": b"image/jpeg",
        b"cats/one.txt": b"application/json",
    }


@pytest.mark.anyio
async def test_order_and_tokens_over_many_batches(log: MemoryEventLog) -> None:
    entries = [Content(target="captions", id=f"id{n % 5}", text=f"text {n}") for n in range(100)]
    done = await publish(log, NAMES, entries, batch_records_max=7)
    assert done.records == 100
    for records in log.records.values():
        numbers = [int(orjson.loads(r.value or b"")["text"].split()[1]) for r in records]
        assert numbers == sorted(numbers)
    assert done.tokens == [
        RecordPosition(tp.topic, tp.partition, len(records) - 1)
        for tp, records in sorted(log.records.items())
    ]


class Picky(MemoryEventLog):
    """A log that refuses some keys, as a topic with a smaller limit does, or cannot be reached."""

    refused: tuple[bytes, ...] = (b"bad",)
    error: Exception = MessageSizeTooLargeError()

    async def publish(self, records: Sequence[OutRecord]) -> list[RecordPosition]:
        if any(record.key in self.refused for record in records):
            raise self.error
        return await super().publish(records)


@pytest.mark.anyio
async def test_a_record_the_broker_refuses_does_not_stop_the_rest() -> None:
    log = Picky({NAMES.content("captions"): 1})
    entries = [Content(target="captions", id=i, text="x") for i in ("a", "bad", "b")]
    done = await publish(log, NAMES, entries)
    assert done.records == 2
    assert [(r.where, r.code) for r in done.refused] == [("bad", "refused_by_broker")]


@pytest.mark.anyio
async def test_a_broker_that_is_away_stops_everything() -> None:
    log = Picky({NAMES.content("captions"): 1})
    log.error = KafkaConnectionError("away")
    with pytest.raises(KafkaConnectionError):
        await publish(log, NAMES, [Content(target="captions", id="bad", text="x")])


@pytest.mark.anyio
async def test_delete_writes_null_values(log: MemoryEventLog) -> None:
    done = await delete(log, NAMES, "images", ["a", "", "cats/b.jpg"])
    assert done.records == 2
    assert [refused.code for refused in done.refused] == ["empty_id"]
    found = [r for records in log.records.values() for r in records]
    assert {(r.topic, r.key, r.value) for r in found} == {
        ("t.images", b"a", None),
        ("t.images", b"cats/b.jpg", None),
    }


def test_a_file_is_yielded_once_it_stays_the_same() -> None:
    stable_files = StableFiles()
    assert stable_files.stable_now({"a": (1, 1)}) == []
    assert stable_files.stable_now({"a": (2, 2)}) == []  # still growing
    assert stable_files.stable_now({"a": (2, 2)}) == ["a"]
    assert stable_files.stable_now({"a": (2, 2)}) == []
    assert stable_files.stable_now({"a": (3, 3)}) == []  # changed: wait again
    assert stable_files.stable_now({"a": (3, 3)}) == ["a"]
    assert stable_files.stable_now({}) == []
    assert stable_files.stable_now({"a": (3, 3)}) == []  # gone and back
    assert stable_files.stable_now({"a": (3, 3)}) == ["a"]


def test_a_scan_finds_what_a_folder_may_hold_to_publish(folder: Path) -> None:
    """The bytes of a whole file decide whether it is a picture."""
    (folder / "cats" / "next.jpg.crdownload").write_bytes(JPEG)
    assert sorted(scan(folder)) == [
        str(folder / name) for name in ("Two.PNG", "cats/one.jpg", "cats/one.txt", "notes.md")
    ]
    assert scan(folder / "absent") == {}


@pytest.mark.anyio
async def test_watching_yields_files_as_they_appear(tmp_path: Path) -> None:
    (tmp_path / "old.txt").write_text("there")
    watching = publisher.watch_folder(tmp_path, every_s=0.01)
    assert await anext(watching) == tmp_path / "old.txt"
    (tmp_path / "new.jpg").write_bytes(b"x")
    assert await anext(watching) == tmp_path / "new.jpg"
    await watching.aclose()  # type: ignore[attr-defined]
