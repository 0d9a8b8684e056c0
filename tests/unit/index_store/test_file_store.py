"""The local files of segments exist while something needs them, and are deleted afterwards."""

import asyncio
from pathlib import Path

import pytest

from index_store.segment.file_store import SegmentFileStore
from tests.kits.index_kit import filled, vectors

pytestmark = pytest.mark.anyio


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


async def test_files_are_written_once_and_kept_while_they_are_named(tmp_path: Path) -> None:
    (tmp_path / "of-another-run").mkdir()
    spill = SegmentFileStore(tmp_path)
    [part] = filled(vectors(10)).view.readers["images"]
    files = await spill.write_out(part)
    written = files.columns.stat().st_mtime_ns
    await spill.delete_others(lambda: [files.name])
    assert (await spill.write_out(part)).columns.stat().st_mtime_ns == written
    assert names(tmp_path) == {files.name}
    await spill.delete_others(list)
    assert names(tmp_path) == set()


async def test_what_a_segment_is_built_of_stays_until_it_is_built(tmp_path: Path) -> None:
    spill = SegmentFileStore(tmp_path)
    [part] = filled(vectors(10)).view.readers["images"]
    async with spill.building("new", [part]) as out:
        files = await spill.write_out(part)
        await spill.delete_others(list)
        assert names(tmp_path) == {out.name, files.name}
    await spill.delete_others(lambda: ["new"])
    assert names(tmp_path) == {"new"}


async def test_what_could_not_be_built_is_deleted(tmp_path: Path) -> None:
    spill = SegmentFileStore(tmp_path)
    with pytest.raises(OSError, match="No space"):
        async with spill.building("new", []) as out:
            (out / "half").write_bytes(b"half")
            raise OSError(28, "No space left on device")
    assert names(tmp_path) == set()


async def test_what_is_swapped_in_while_others_write_is_kept(tmp_path: Path) -> None:
    spill, needed = SegmentFileStore(tmp_path), set[str]()
    [part] = filled(vectors(10)).view.readers["images"]
    await spill.folder_for("new")
    writing = asyncio.create_task(spill.write_out(part))
    keeping = asyncio.create_task(spill.delete_others(lambda: needed))
    await asyncio.sleep(0)
    needed.add("new")
    await asyncio.gather(writing, keeping)
    assert names(tmp_path) == {"new"}
