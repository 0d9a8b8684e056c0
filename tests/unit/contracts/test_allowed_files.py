"""Files below allowed roots: no symbolic link leads out of a root, whenever it was made."""

import asyncio
import os
from collections.abc import Callable
from pathlib import Path

import orjson
import pytest

from consumers.references import read_reference
from consumers.references.limits import ReferenceLimits
from consumers.references.published import DisplayReferences
from contracts.allowed_files import OutsideRoots, open_under
from contracts.errors import RejectedRecord
from contracts.events.content_event import Content
from contracts.settings import Settings
from tests.kits.api_kit import NoReferences
from tidelens.ingest.content_files import RefusedContent, content_events_of
from tidelens.ingest.file_types import PublishSource, SkippedFile, sources

INSIDE, SECRET = b"inside", b"secret"

Reader = Callable[[Path, Path], bytes | None]


def by_encoder(root: Path, path: Path) -> bytes | None:
    try:
        return read_reference(path.as_uri(), None, allow_roots=[root], bytes_max=100)
    except RejectedRecord:
        return None


def by_api(root: Path, path: Path) -> bytes | None:
    limits = ReferenceLimits(frozenset({"file"}), 100, allow_roots=(root,))

    async def shown() -> bytes:
        async with DisplayReferences(NoReferences(), limits).read(path.as_uri(), None) as data:
            return data

    try:
        return asyncio.run(shown())
    except RejectedRecord:
        return None


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Return a root that holds a/b/one.png; elsewhere/b/one.png beside it is out of bounds."""
    for top, data in (("root/a", INSIDE), ("elsewhere", SECRET)):
        (tmp_path / top / "b").mkdir(parents=True)
        (tmp_path / top / "b" / "one.png").write_bytes(data)
    return tmp_path / "root"


@pytest.mark.parametrize("read", [by_encoder, by_api])
@pytest.mark.parametrize("swapped", ["root", "root/a", "root/a/b", "root/a/b/one.png"])
def test_what_was_compared_is_what_is_opened(
    root: Path, read: Reader, swapped: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = root / "a/b/one.png"
    assert read(root, path) == INSIDE
    elsewhere = {"root": "", "root/a": "", "root/a/b": "b", "root/a/b/one.png": "b/one.png"}
    resolve = Path.resolve

    def swapping(self: Path, strict: bool = False) -> Path:
        found = resolve(self, strict=strict)
        if self == root and not root.parent.joinpath("kept").exists():
            # The root is the last path that is resolved before the file is opened.
            there = root.parent / swapped
            there.rename(root.parent / "kept")
            target = root.parent / "elsewhere" / elsewhere[swapped]
            there.symlink_to(target)
            if swapped == "root":
                (target / "a").symlink_to(target)
        return found

    monkeypatch.setattr(Path, "resolve", swapping)
    assert read(root, path) is None
    assert (root.parent / "kept").exists(), "it was swapped"


@pytest.mark.parametrize("read", [by_encoder, by_api])
def test_links_inside_a_root_are_followed(root: Path, read: Reader) -> None:
    (root / "link.png").symlink_to("a/b/one.png")
    (root / "link").symlink_to("a/b")
    assert read(root, root / "link.png") == read(root, root / "link/one.png") == INSIDE
    (root / "circle").symlink_to("circle")
    assert read(root, root / "circle") is None


def test_a_root_may_be_a_file_and_a_link(root: Path) -> None:
    (root / "link").symlink_to("a")
    for allowed in (root / "link", root / "a/b/one.png"):
        with open_under(root / "a/b/one.png", [allowed]) as file:
            assert file.read() == INSIDE
    with pytest.raises(OutsideRoots):
        open_under(root / "a/b/one.png", [])


@pytest.mark.parametrize("read", [by_encoder, by_api])
def test_pipes_and_folders_are_not_opened(root: Path, read: Reader) -> None:
    os.mkfifo(root / "pipe.png")  # opened for reading, it would wait for a writer
    before = set(Path("/proc/self/fd").iterdir())
    for name in ("pipe.png", "a", "none.png", "a/b/one.png/x"):
        assert read(root, root / name) is None
    assert set(Path("/proc/self/fd").iterdir()) == before, "no descriptor stays open"


def published(folder: Path) -> dict[str, object]:
    """Return, for each file of a folder, its text or bytes, or the reason why it is refused."""
    settings = Settings()
    files = [found for found in sources([folder]) if isinstance(found, PublishSource)]
    found: dict[str, object] = {}
    for file in files:
        [entry] = content_events_of(file, settings)
        name = file.path.relative_to(folder).as_posix()
        content = isinstance(entry, Content)
        found[name] = (entry.text or entry.image) if content else entry  # type: ignore[union-attr]
    return found


def test_a_published_folder_shows_nothing_that_lies_elsewhere(root: Path) -> None:
    png = b"\x89PNG\r\n\x1a\n"
    (root / "a" / "b" / "one.png").write_bytes(png)
    (root.parent / "secret").write_text("secret")
    (root.parent / "secret.png").write_bytes(png)
    (root / "leak.txt").symlink_to(root.parent / "secret")
    (root / "leak.png").symlink_to("../secret.png")
    (root / "own.png").symlink_to("a/b/one.png")
    (root / "gone.txt").symlink_to(root.parent / "none")
    out = SkippedFile("link out of the folder")
    assert published(root) == {
        "a/b/one.png": png,
        "own.png": png,
        "leak.txt": out,
        "leak.png": out,
        "gone.txt": out,
    }
    # A user who names the link itself means the file that it leads to.
    [entry] = content_events_of(PublishSource(root / "leak.png", root), Settings())
    assert isinstance(entry, Content) and entry.image == png


def test_a_folder_that_is_swapped_while_it_is_published(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (root / "a" / "b" / "one.txt").write_text("inside")
    (root.parent / "elsewhere" / "b" / "one.txt").write_text("secret")
    file = PublishSource(root / "a" / "b" / "one.txt", root, named=False)
    resolve = Path.resolve

    def swapping(self: Path, strict: bool = False) -> Path:
        found = resolve(self, strict=strict)
        if self == root and not (root / "kept").exists():
            (root / "a").rename(root / "kept")
            (root / "a").symlink_to(root.parent / "elsewhere")
        return found

    monkeypatch.setattr(Path, "resolve", swapping)
    [entry] = content_events_of(file, Settings())
    assert isinstance(entry, RefusedContent) and entry.code == "unreadable"
    [entry] = content_events_of(file, Settings())
    assert entry == SkippedFile("link out of the folder")


@pytest.mark.parametrize("image", ["pipe.png", "a", "circle.png", "none.png", "x\0y.png"])
def test_what_a_line_names_is_no_file(root: Path, image: str) -> None:
    os.mkfifo(root / "pipe.png")
    (root / "circle.png").symlink_to("circle.png")
    lines = root / "lines.jsonl"
    lines.write_bytes(orjson.dumps({"image": image}) + b"\n")
    [entry] = content_events_of(PublishSource(lines, root), Settings())
    assert isinstance(entry, RefusedContent) and entry.code == "unreadable"
