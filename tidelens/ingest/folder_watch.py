"""A watched folder, which yields each file once it is whole.

The folder is polled, since that works on every file system, network shares included. A file is
whole if its size and modification time were the same at two polls. Hidden files are skipped, and
so are those with the suffixes of unfinished downloads, which programs give to files that they are
still writing. Files that are there at the start are yielded first. Deleting a file does not delete
its item; `tidelens delete` does.
"""

import asyncio
import os
import time
from collections.abc import AsyncIterator
from pathlib import Path

from tidelens.ingest.file_types import is_hidden, is_unfinished

Stamp = tuple[int, int]

# A large folder takes long to look through; polling may take this share of one core.
_SHARE = 0.05


class StableFiles:
    """The files that are new or changed, and whole, from one poll to the next."""

    def __init__(self) -> None:
        self._last: dict[str, Stamp] = {}
        self._yielded: dict[str, Stamp] = {}

    def stable_now(self, found: dict[str, Stamp]) -> list[str]:
        """Return the files to yield after this poll, in the order of their names."""
        ready = [
            path
            for path, stamp in sorted(found.items())
            if self._last.get(path) == stamp and self._yielded.get(path) != stamp
        ]
        self._last = found
        # Forget what is gone, so that a file that comes back counts as new.
        self._yielded = {path: s for path, s in self._yielded.items() if path in found}
        self._yielded.update((path, found[path]) for path in ready)
        return ready


async def watch_folder(folder: Path, *, every_s: float = 0.5) -> AsyncIterator[Path]:
    """Yield new and changed files under `folder`, for ever."""
    stable_files = StableFiles()
    while True:
        started = time.monotonic()
        found = await asyncio.to_thread(scan, folder)
        took_s = time.monotonic() - started
        for path in stable_files.stable_now(found):
            yield Path(path)
        await asyncio.sleep(max(every_s, took_s / _SHARE))


def scan(folder: Path) -> dict[str, Stamp]:
    """Return size and modification time of every file that does not vanish meanwhile."""
    found: dict[str, Stamp] = {}
    folders = [str(folder)]
    while folders:
        try:
            with os.scandir(folders.pop()) as entries:
                for entry in entries:
                    if is_hidden(entry.name) or is_unfinished(entry.name):
                        continue
                    if entry.is_dir(follow_symlinks=False):
                        folders.append(entry.path)
                    elif entry.is_file():
                        status = entry.stat()
                        found[entry.path] = (status.st_size, status.st_mtime_ns)
        except OSError:
            continue  # removed meanwhile; the next poll decides
    return found
