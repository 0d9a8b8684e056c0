"""The inputs and the report of making a space: what is served now, and how the two compare."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from contracts.events.control_record import SpaceRef
from tidelens.client import Client
from tidelens.migration.compare import AnswerComparison, LiveIdComparison

Progress = Callable[[int, int], None]
"""A function that is called with the number of records encoded so far, and with their total."""


@dataclass(frozen=True, slots=True)
class Served:
    """The space that nodes answer in, one of these nodes, and the texts to compare answers on."""

    space: SpaceRef
    client: Client
    texts: Sequence[str]


@dataclass(frozen=True, slots=True)
class EncodeCounts:
    """The number of records that this run encoded, of `total` in the content topics."""

    records: int
    total: int
    seconds: float


@dataclass(frozen=True, slots=True)
class ComparisonReport:
    """The comparison of a new space with the old one; `encoded` is None if it only compared."""

    old: SpaceRef
    new: SpaceRef
    encoded: EncodeCounts | None
    sets: LiveIdComparison
    answers: AnswerComparison
    snapshot: str

    def wire(self) -> dict[str, Any]:
        """Return the report as --json prints it."""
        return {
            "space": self.new.space,
            "model": self.new.model,
            "old": self.old.space,
            **({} if self.encoded is None else {"encoded": asdict(self.encoded)}),
            **self.sets.wire(),
            **asdict(self.answers),
            "snapshot": self.snapshot,
        }
