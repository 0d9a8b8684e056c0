"""Where an immutable part's files are."""

from dataclasses import dataclass, field
from pathlib import Path

from index_store.ann import Operating

VECTORS, COLUMNS, ANN = "vectors.faiss", "columns.safetensors", "ann.faiss"


@dataclass(frozen=True, slots=True)
class PartFiles:
    """Where a part's files are; `kind` names the index in ANN, None where there is none."""

    name: str
    folder: Path
    rows: int
    kind: str | None = None
    points: list[Operating] = field(default_factory=list)

    @property
    def files(self) -> list[Path]:
        names = [VECTORS, COLUMNS] if self.kind is None else [VECTORS, COLUMNS, ANN]
        return [self.folder / name for name in names]
