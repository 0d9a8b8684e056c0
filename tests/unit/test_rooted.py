"""Files below allowed roots: no link leads out of one, put there at whatever moment."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from api.pictures import _file_under
from consumers.references import read_reference
from contracts.errors import RejectedRecord
from contracts.rooted import OutsideRoots, open_under

INSIDE, SECRET = b"inside", b"secret"

Reader = Callable[[Path, Path], bytes | None]


def by_encoder(root: Path, path: Path) -> bytes | None:
    try:
        return read_reference(path.as_uri(), None, allow_roots=[root], bytes_max=100)
    except RejectedRecord:
        return None


def by_api(root: Path, path: Path) -> bytes | None:
    return _file_under([root], path, 100)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A root with a/b/one.png, beside a folder elsewhere/b/one.png that no reader may see."""
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
            # The last that is resolved before the file is opened.
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
    os.mkfifo(root / "pipe.png")  # opened for reading alone, it would wait for a writer
    before = set(Path("/proc/self/fd").iterdir())
    for name in ("pipe.png", "a", "none.png", "a/b/one.png/x"):
        assert read(root, root / name) is None
    assert set(Path("/proc/self/fd").iterdir()) == before, "no descriptor stays open"
