"""The files of a segment's rows, which never change."""

import os
import shutil
from dataclasses import dataclass, field
from pathlib import Path

from index_store.ann.faiss_index import OperatingPoint

VECTORS, COLUMNS, ANN = "vectors.faiss", "columns.safetensors", "ann.faiss"


@dataclass(frozen=True, slots=True)
class SegmentFiles:
    """The paths of a segment's files.

    `name` names the rows. `index_type` is the Faiss factory string of the index in `ann`, and
    `points` are its operating points; both files of a segment without an index are None.
    """

    name: str
    rows: int
    vectors: Path
    columns: Path
    ann: Path | None = None
    index_type: str | None = None
    points: list[OperatingPoint] = field(default_factory=list)

    @property
    def paths(self) -> list[Path]:
        """The files that there are, in the order of a manifest."""
        return [path for path in (self.vectors, self.columns, self.ann) if path is not None]

    @classmethod
    def within(
        cls,
        name: str,
        rows: int,
        folder: Path,
        index_type: str | None = None,
        points: list[OperatingPoint] | None = None,
    ) -> "SegmentFiles":
        """Return the files of a segment in one folder, under their usual names."""
        ann = None if index_type is None else folder / ANN
        return cls(name, rows, folder / VECTORS, folder / COLUMNS, ann, index_type, points or [])


def link_or_copy(source: Path, target: Path) -> Path:
    """Make `target` a file with the bytes of `source`, shared with it on one file system."""
    # Never written into: what is there may be linked elsewhere too.
    target.unlink(missing_ok=True)
    try:
        os.link(source, target)
    except OSError:  # another file system
        shutil.copyfile(source, target)
    return target
