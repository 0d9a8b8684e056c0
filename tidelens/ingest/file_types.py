"""The files to publish below a path, and the type that each is published as.

Pictures are recognized by their first bytes, whatever their names are. Captions and JSON Lines have
no such beginning: they are recognized by the suffixes below, and by not being pictures.
"""

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import Enum
from io import BufferedReader
from pathlib import Path, PurePosixPath

from contracts.allowed_files import open_under
from contracts.picture_formats import SUFFIXES, format_of

CAPTIONS = {".txt"}
LINES = {".jsonl", ".ndjson"}
# How browsers and copying programs name files that are not whole yet.
_UNFINISHED = {".part", ".partial", ".crdownload", ".download", ".opdownload", ".filepart"}
_UNFINISHED |= {".tmp", ".temp"}
_LABEL_CHARACTERS_MAX = 20
_ANYWHERE = Path("/")


class FileType(Enum):
    """The type that a file is published as."""

    PICTURE = "picture"
    CAPTION = "caption"
    LINES = "JSON Lines"


@dataclass(frozen=True, slots=True)
class PublishSource:
    """One file, the folder that its id is relative to, and whether the user named it itself."""

    path: Path
    folder: Path
    named: bool = True

    def open(self) -> BufferedReader:
        """Open the file. One that was found in a folder is opened only if no link leads out of it.

        Otherwise anyone who may write into the folder could show any file of the publisher.
        Raises OutsideRoots, NotRegular, OSError.
        """
        return open_under(self.path, [_ANYWHERE if self.named else self.folder])


@dataclass(frozen=True, slots=True)
class SkippedFile:
    """A file of a folder that is not published; `reason` is its suffix, or what it is instead."""

    reason: str


@dataclass(frozen=True, slots=True)
class UnreadableFolder:
    """A folder that cannot be listed."""

    path: Path
    error: OSError


PublishEntry = PublishSource | SkippedFile | UnreadableFolder


def sources(paths: Iterable[Path]) -> Iterator[PublishEntry]:
    """Yield each file to look at, in a stable order. Links to folders are not followed."""
    for path in paths:
        if path.is_dir():
            yield from _below(path)
        else:
            yield PublishSource(path, path.parent)


def _below(folder: Path) -> Iterator[PublishEntry]:
    unreadable: list[OSError] = []
    for directory, folders, names in os.walk(folder, onerror=unreadable.append):
        links = [name for name in folders if Path(directory, name).is_symlink()]
        hidden = [name for name in (*folders, *names) if is_hidden(name)]
        folders[:] = sorted(set(folders) - set(links) - set(hidden))
        yield from (SkippedFile("hidden") for _ in hidden)
        yield from (SkippedFile("link to a folder") for name in links if not is_hidden(name))
        for name in sorted(set(names) - set(hidden)):
            if is_unfinished(name):
                yield SkippedFile(label(name))
            else:
                yield PublishSource(Path(directory, name), folder, named=False)
    for error in unreadable:
        yield UnreadableFolder(Path(os.fsdecode(error.filename or folder)), error)


def is_hidden(name: str) -> bool:
    """Return whether file managers hide the file."""
    return name.startswith(".")


def is_unfinished(name: str) -> bool:
    """Return whether a program is still writing the file, by its name."""
    return name.endswith("~") or PurePosixPath(name).suffix.lower() in _UNFINISHED


def label(name: str) -> str:
    """Return the suffix of a file for people, if it has a usable one."""
    suffix = PurePosixPath(name).suffix.lower()
    return suffix if 1 < len(suffix) <= _LABEL_CHARACTERS_MAX else "no suffix"


def file_type_of(path: Path, head: bytes) -> FileType | None:
    """Return the type by the file's first bytes, or by its suffix if these do not decide.

    A damaged picture keeps its type by its suffix, so that it is refused and not skipped.
    """
    suffix = path.suffix.lower()
    if suffix in CAPTIONS | LINES:
        # A text may begin with the letters of a format; no text has a zero in it.
        if suffix in CAPTIONS and b"\0" in head and format_of(head):
            return FileType.PICTURE
        return FileType.CAPTION if suffix in CAPTIONS else FileType.LINES
    return FileType.PICTURE if format_of(head) or suffix in SUFFIXES else None
