"""Files of immutable parts: written once, for the process that builds segments and for snapshots.

A part's rows never change, so its files are named by its uid and how many rows they hold, and are
never written again. Built segments bring their files with them.
"""

import asyncio
import shutil
from collections.abc import Collection
from pathlib import Path

from index_store import columns, flat
from index_store.files import COLUMNS, VECTORS, PartFiles
from index_store.parts import Part

# Rows written at a time: 8 MiB at 512 dimensions, so that searches get their turn.
_BLOCK_ROWS = 8192


class Spill:
    """Keeps the files of parts below `folder`, which is emptied at the start."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._lock = asyncio.Lock()
        self._emptied = False

    async def of(self, part: Part) -> PartFiles:
        """The part's files, written now unless they are there. Raises OSError."""
        if part.files is not None:
            return part.files
        async with self._lock:
            return await asyncio.to_thread(self._write, part)

    async def new_folder(self, name: str) -> Path:
        """An empty folder for the files of a segment to be built."""
        async with self._lock:
            await asyncio.to_thread(self._empty_once)
            folder = self.folder / name
            await asyncio.to_thread(folder.mkdir, parents=True)
            return folder

    async def keep(self, names: Collection[str]) -> None:
        """Delete the files of all other parts. What is mapped stays readable."""
        async with self._lock:
            await asyncio.to_thread(self._keep, set(names))

    def _write(self, part: Part) -> PartFiles:
        self._empty_once()
        # A chunk may have got rows since its view was made; they do no harm in its files.
        rows = len(part.rows)
        files = PartFiles(f"{part.uid}-{rows}", self.folder / f"{part.uid}-{rows}", rows)
        if files.folder.exists():
            return files
        partial = self.folder / f".{files.name}"
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        columns.save(columns.pack(part.rows, rows), partial / COLUMNS)
        vectors = part.rows.vectors
        with (partial / VECTORS).open("wb") as file:
            file.write(flat.file_head(vectors.shape[1], rows))
            for start in range(0, rows, _BLOCK_ROWS):
                file.write(vectors[start : min(rows, start + _BLOCK_ROWS)].tobytes())
        partial.rename(files.folder)
        return files

    def _empty_once(self) -> None:
        if not self._emptied:
            self._keep(set())
            self._emptied = True

    def _keep(self, names: set[str]) -> None:
        if not self.folder.exists():
            return
        for folder in self.folder.iterdir():
            if folder.name not in names:
                shutil.rmtree(folder, ignore_errors=True)
