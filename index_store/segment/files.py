"""Where an immutable part's files are."""

import os
import shutil
from dataclasses import dataclass, field
from pathlib import Path

from index_store.ann.faiss_index import OperatingPoint

VECTORS, COLUMNS, ANN = "vectors.faiss", "columns.safetensors", "ann.faiss"


@dataclass(frozen=True, slots=True)
class SegmentFiles:
    """`index_type` names the index in `ann`, None where there is none; `points` are its tuning."""

    name: str
    rows: int
    vectors: Path
    columns: Path
    ann: Path | None = None
    index_type: str | None = None
    points: list[OperatingPoint] = field(default_factory=list)

    @property
    def paths(self) -> list[Path]:
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
        """All in one folder, under their usual names."""
        ann = None if index_type is None else folder / ANN
        return cls(name, rows, folder / VECTORS, folder / COLUMNS, ann, index_type, points or [])


def link_or_copy(source: Path, target: Path) -> Path:
    """`target`, now a file of the bytes of `source`; on the same file system they are shared."""
    # Never written into: what is there may be linked elsewhere too.
    target.unlink(missing_ok=True)
    try:
        os.link(source, target)
    except OSError:  # another file system
        shutil.copyfile(source, target)
    return target
