"""Files are known by their bytes, whatever their names are, and what is left out is counted."""

import os
from collections import Counter
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import orjson
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from contracts.events.content_event import Content
from contracts.picture_formats import FORMATS, format_of, media_type_of
from contracts.settings import Settings
from contracts.testing.event_log import MemoryEventLog
from contracts.topics import TARGETS, Names
from tests.kits.heic_files import flat
from tests.kits.picture_files import saved
from tidelens.cli import publish as command
from tidelens.ingest.content_files import RefusedContent
from tidelens.ingest.file_types import SkippedFile, sources
from tidelens.ingest.publisher import PublishInput, entries_of

RED = Image.new("RGB", (32, 16), "red")
FILES = {
    "JPEG": saved(RED, "JPEG"),
    "PNG": saved(RED, "PNG"),
    "WEBP": saved(RED, "WEBP"),
    "GIF": saved(RED, "GIF"),
    "BMP": saved(RED, "BMP"),
    "TIFF": saved(RED, "TIFF"),
    "AVIF": saved(RED, "AVIF"),
    "HEIF": flat(),
}
SETTINGS = Settings()
NAMES = Names("t.", "")


def entries(*paths: Path) -> list[PublishInput]:
    return list(entries_of(sources(paths), SETTINGS))


def left_out(found: list[PublishInput]) -> Counter[str]:
    return Counter(entry.reason for entry in found if isinstance(entry, SkippedFile))


def published(found: list[PublishInput]) -> list[str]:
    return [entry.id for entry in found if isinstance(entry, Content)]


def refused(found: list[PublishInput]) -> list[tuple[str, str]]:
    return [
        (Path(entry.where).name, entry.code) for entry in found if isinstance(entry, RefusedContent)
    ]


def test_the_table_knows_every_format() -> None:
    assert set(FILES) == {known.name for known in FORMATS}
    for known in FORMATS:
        assert format_of(FILES[known.name]) is known
        assert media_type_of(FILES[known.name]) == known.media_type
    mpo = saved(RED, "MPO", save_all=True, append_images=[RED])
    assert media_type_of(mpo) == "image/jpeg"


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"BM",
        b"BMW and Audi are makers of cars",
        b"GIF88a",
        b"\0\0\0\x18ftypisom\0\0\0\0mp41",
        b"\0\0\0\x14ftypqt  \0\0\0\0",
        b"RIFF\0\0\0\0WAVE",
        b"<svg/>",
        b"%PDF-1.7",
    ],
)
def test_other_files_are_not_pictures(data: bytes) -> None:
    assert media_type_of(data) == ("image/bmp" if data == b"BM" else "image/*")


def test_brands_of_one_container() -> None:
    """The major brand of a file may be the container's own; the minor version is ignored."""

    def file(major: bytes, minor: bytes, *others: bytes) -> bytes:
        body = b"ftyp" + major + minor + b"".join(others)
        return (4 + len(body)).to_bytes(4) + body + b"avif"

    assert media_type_of(file(b"mif1", bytes(4), b"miaf", b"avif")) == "image/avif"
    assert media_type_of(file(b"mif1", bytes(4), b"miaf", b"heic")) == "image/heic"
    assert media_type_of(file(b"heix", bytes(4))) == "image/heic"
    assert media_type_of(file(b"isom", b"avif", b"mp41")) == "image/*"


@pytest.mark.parametrize("name", FILES)
def test_a_picture_of_any_name_is_published(name: str, tmp_path: Path) -> None:
    names = ["photo", "photo.dat", "photo.jpg", "photo.txt", "photo.jsonl.old", "IMG.HEIC"]
    for file in names:
        (tmp_path / file).write_bytes(FILES[name])
    found = entries(tmp_path)
    assert sorted(published(found)) == sorted(names)
    assert all(isinstance(entry, Content) and entry.target == "images" for entry in found)
    assert published(entries(tmp_path / "photo.dat")) == ["photo.dat"]


def test_a_caption_may_begin_as_a_picture_does(tmp_path: Path) -> None:
    for text in ("BM", "BMW and Audi", "GIF89a is a format"):
        (tmp_path / "one.txt").write_text(text)
        [content] = entries(tmp_path)
        assert isinstance(content, Content) and content.text == text


def test_skipped_files_of_a_folder_are_counted_by_reason(tmp_path: Path) -> None:
    for name in ("a.pdf", "b.PDF", "c.svg", "README", "items.jsonl", "x." + "y" * 40):
        (tmp_path / name).write_bytes(b"something else")
    for name in ("d.jpg.crdownload", "e.part", "f.png~", ".DS_Store"):
        (tmp_path / name).write_bytes(FILES["JPEG"])
    (tmp_path / "folder").mkdir()
    (tmp_path / ".git").mkdir()
    (tmp_path / ".git" / "g.jpg").write_bytes(FILES["JPEG"])
    (tmp_path / "link").symlink_to(tmp_path / "folder")
    os.mkfifo(tmp_path / "pipe.jpg")  # opened for reading, it would wait for a writer
    (tmp_path / "film.mp4").write_bytes(b"\0\0\0\x18ftypisom")
    assert left_out(entries(tmp_path)) == {
        ".pdf": 2,
        ".svg": 1,
        ".jsonl": 1,
        ".crdownload": 1,
        ".part": 1,
        ".png~": 1,
        ".mp4": 1,
        "hidden": 2,
        "link to a folder": 1,
        "no regular file": 1,
        "no suffix": 2,
    }


def test_a_damaged_picture_is_refused_and_not_left_out(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"a text")
    (tmp_path / "b.heic").write_bytes(b"")
    assert refused(entries(tmp_path)) == [("a.jpg", "image_format"), ("b.heic", "empty_file")]


def test_a_folder_that_cannot_be_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "shut").mkdir()
    scandir = os.scandir

    def shut(path: str) -> Any:
        if Path(path).name == "shut":
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", shut)
    assert refused(entries(tmp_path)) == [("shut", "unreadable")]


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> Result:
    @asynccontextmanager
    async def opened(settings: Settings) -> Any:
        yield MemoryEventLog({NAMES.content(target): 1 for target in TARGETS}), NAMES

    monkeypatch.setattr(command, "open_log", opened)
    result = CliRunner().invoke(command.publish, arguments)
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def test_the_command_tells_what_it_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("one.pdf", "two.pdf", "three.svg"):
        (tmp_path / name).write_bytes(b"something else")
    result = run(monkeypatch, str(tmp_path))
    assert (result.exit_code, result.stdout) == (1, "published 0\n")
    assert result.stderr == "left out: 2 .pdf, 1 .svg\n"
    (tmp_path / "four.heic").write_bytes(FILES["HEIF"])
    result = run(monkeypatch, str(tmp_path))
    assert (result.exit_code, result.stdout) == (0, "published 1\n")
    result = run(monkeypatch, str(tmp_path), "--json")
    assert orjson.loads(result.stdout)["left_out"] == {".pdf": 2, ".svg": 1}


def test_nothing_published_is_a_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    result = run(monkeypatch, str(tmp_path))
    assert (result.exit_code, result.stderr) == (1, "not published: there is nothing there\n")
    result = run(monkeypatch, str(tmp_path / "gone"))
    assert result.exit_code == 1
    assert result.stderr == f"not published: {tmp_path}/gone: there is no such file or folder\n"
