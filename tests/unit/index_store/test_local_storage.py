"""Blobs on disk are whole or absent, stay inside their folder, and leave nothing behind."""

import os
import time
from pathlib import Path

import pytest

from index_store.storage.local import LocalBlobStore

pytestmark = pytest.mark.anyio


async def test_blobs_are_written_read_listed_and_deleted(tmp_path: Path) -> None:
    blobs = LocalBlobStore(tmp_path / "deep" / "store")
    assert await blobs.list("a/") == []
    await blobs.write("a/b", b"1")
    await blobs.write("a/b", memoryview(b"2"))
    await blobs.write("c", b"3")
    await blobs.write("ab/d", b"4")
    assert await blobs.read("a/b") == b"2"
    assert await blobs.list("a/") == ["a/b"]
    assert await blobs.list("a") == ["a/b", "ab/d"]
    assert await blobs.list("") == ["a/b", "ab/d", "c"]
    await blobs.delete("a/b")
    await blobs.delete("a/b")
    for name in ("a/b", "a", "c/d"):
        with pytest.raises(KeyError):
            await blobs.read(name)
    assert not (tmp_path / "deep" / "store" / "a").exists()


@pytest.mark.parametrize("name", ["../x", "/x", "a/../../x", "", ".", ".x", "a/.x", "a//b", "a/"])
async def test_names_stay_inside(tmp_path: Path, name: str) -> None:
    blobs = LocalBlobStore(tmp_path / "store")
    for refused in (blobs.read(name), blobs.write(name, b""), blobs.delete(name)):
        with pytest.raises(ValueError, match="not a blob name"):
            await refused


async def test_a_failed_write_leaves_the_blob_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blobs = LocalBlobStore(tmp_path)
    await blobs.write("a/b", b"1")

    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        await blobs.write("a/b", b"2")
    monkeypatch.undo()
    assert await blobs.read("a/b") == b"1"
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["b"]


async def test_what_a_crash_left_half_written_is_swept_when_old(tmp_path: Path) -> None:
    (tmp_path / "s").mkdir()
    old, new = tmp_path / "s" / ".x.1.partial", tmp_path / "s" / ".y.1.partial"
    for path in (old, new):
        path.write_bytes(b"half")
    os.utime(old, (time.time() - 7200,) * 2)
    blobs = LocalBlobStore(tmp_path)
    assert await blobs.list("") == []
    await blobs.write("t/z", b"1")
    assert (old.exists(), new.exists()) == (False, True)
