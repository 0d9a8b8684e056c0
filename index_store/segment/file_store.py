"""The local files of segments: written once, for the building process and for snapshots.

The rows that a reader holds never change, so their files are named by the segment's uid and the
number of rows, and are never written again. Built segments bring their files with them.
"""

import asyncio
import shutil
from collections import Counter
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import faiss

from contracts.atomic_write import atomic_folder
from contracts.user_folders import make_private
from index_store.ann import flat
from index_store.ann.faiss_index import AnnIndex
from index_store.segment import columns
from index_store.segment.files import ANN, COLUMNS, VECTORS, SegmentFiles
from index_store.segment.reader import SegmentReader

# Rows written at a time: 8 MiB at 512 dimensions, so that searches get their turn.
_BLOCK_ROWS = 8192


class SegmentFileStore:
    """The files of segments below `folder`, which is emptied before the first is written."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lock = asyncio.Lock()
        self._emptied = False
        self._in_use: Counter[str] = Counter()

    async def write_out(self, part: SegmentReader) -> SegmentFiles:
        """Return the files of a reader's rows, written now unless they are there. Raises OSError.

        Files that were deleted from outside, as a rule for old files may do, are written again from
        the rows in memory.
        """
        if part.files is not None and await asyncio.to_thread(_are_there, part.files):
            return part.files
        async with self._lock:
            return await asyncio.to_thread(self._write, part)

    async def folder_for(self, name: str) -> Path:
        """Return the folder for files of that name, made unless it is there."""
        async with self._lock:
            return await asyncio.to_thread(self._folder_for, name)

    @asynccontextmanager
    async def building(self, name: str, readers: Sequence[SegmentReader]) -> AsyncIterator[Path]:
        """Open a folder for the files of a segment that is built out of the rows of `readers`.

        Meanwhile `delete_others` leaves it and their files alone, even when the segments are gone
        from the index. After a failure the folder is deleted.
        """
        names = [name, *map(_name_of, readers)]
        self._in_use.update(names)
        try:
            yield await self.folder_for(name)
        except BaseException:
            await asyncio.to_thread(shutil.rmtree, self._folder / name, ignore_errors=True)
            raise
        finally:
            self._in_use.subtract(names)
            self._in_use = +self._in_use

    @property
    def in_use(self) -> Collection[str]:
        """The names of the files that segments are being built from, and into."""
        return set(self._in_use)

    async def delete_others(self, names: Callable[[], Collection[str]]) -> None:
        """Delete the files of all other segments. Mapped files stay readable.

        `names` is called while nothing is written, so that it names segments too that a merge
        commits while this waits.
        """
        async with self._lock:
            await asyncio.to_thread(self._keep, {*names(), *self._in_use})

    def _folder_for(self, name: str) -> Path:
        self._empty_once()
        folder = self._folder / name
        make_private(folder)
        return folder

    def _write(self, part: SegmentReader) -> SegmentFiles:
        self._empty_once()
        # A growing segment may have got more rows since; they do no harm in the files.
        rows, name = len(part.rows), _name_of(part)
        files = SegmentFiles.within(name, rows, self._folder / name)
        if part.files is not None:
            files = replace(files, index_type=part.files.index_type, points=part.files.points)
            if part.files.ann is not None:
                files = replace(files, ann=self._folder / name / ANN)
        if _are_there(files):
            return files
        with atomic_folder(self._folder / name) as partial:
            _write_rows(part, rows, partial)
            if files.ann is not None and isinstance(part.ann, AnnIndex):
                faiss.write_index(part.ann.index, str(partial / ANN))
        return files

    def _empty_once(self) -> None:
        if not self._emptied:
            self._keep(set())
            self._emptied = True

    def _keep(self, names: set[str]) -> None:
        if not self._folder.exists():
            return
        for folder in self._folder.iterdir():
            if folder.name not in names:
                shutil.rmtree(folder, ignore_errors=True)


def file_names_of(readers: Iterable[SegmentReader]) -> set[str]:
    """Return the names of the files that these readers' rows have, or would get."""
    names = set()
    for reader in readers:
        names.add(f"{reader.uid}-{len(reader.rows)}")
        if reader.files is not None:
            names.add(reader.files.name)
    return names


def _write_rows(part: SegmentReader, rows: int, folder: Path) -> None:
    columns.save_columns(columns.pack_columns(part.rows, rows), folder / COLUMNS)
    vectors = part.rows.vectors
    with (folder / VECTORS).open("wb") as file:
        file.write(flat.file_head(vectors.shape[1], rows))
        for start in range(0, rows, _BLOCK_ROWS):
            file.write(vectors[start : min(rows, start + _BLOCK_ROWS)].tobytes())


def _are_there(files: SegmentFiles) -> bool:
    return all(path.exists() for path in files.paths)


def _name_of(part: SegmentReader) -> str:
    return f"{part.uid}-{len(part.rows)}" if part.files is None else part.files.name
