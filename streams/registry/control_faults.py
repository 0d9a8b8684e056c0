"""Control records that are ignored: each is logged once, counted, and shown until replaced."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import structlog

from contracts.characters import escaped
from contracts.errors import RejectedRecord
from contracts.events.record import Record

log = structlog.get_logger(__name__)

_KEY_CHARS_MAX = 100
# At most this many are remembered, so that reading again logs nothing twice.
_LOGGED_MAX = 10_000


def shown_key(key: bytes | None) -> str:
    """Return a key, which may be anybody's bytes, as a text of one short line."""
    return escaped((key or b"").decode("utf-8", "backslashreplace"))[:_KEY_CHARS_MAX]


@dataclass(frozen=True, slots=True)
class IgnoredRecord:
    """A control record that is ignored, and why."""

    topic: str
    partition: int
    offset: int
    key: str
    fault: str
    message: str

    @classmethod
    def of(cls, record: Record, error: RejectedRecord) -> "IgnoredRecord":
        key = shown_key(record.key)
        return cls(record.topic, record.partition, record.offset, key, error.code, error.message)

    def __str__(self) -> str:
        position = f"{self.topic}/{self.partition} offset {self.offset}"
        return f"{position} ({self.key}): {self.fault}: {self.message}"


class IgnoredRecords:
    """The records that one process ignores; its readers share it, so that each is logged once."""

    def __init__(self) -> None:
        self._refused: dict[str, Sequence[IgnoredRecord]] = {}
        self._logged: dict[tuple[str, int, str], None] = {}
        self.ignored: Counter[str] = Counter()
        """The number of records that were ignored, by what is wrong with them."""

    @property
    def current(self) -> list[IgnoredRecord]:
        """Return the records that are ignored now, in the order of the log."""
        found = {(one.offset, one.fault): one for part in self._refused.values() for one in part}
        return [found[position] for position in sorted(found)]

    def show(self, reader: str, refused: Sequence[IgnoredRecord]) -> None:
        """Let `refused` be the records that this reader ignores now."""
        self._refused[reader] = tuple(refused)
        for one in refused:
            known = (one.topic, one.offset, one.fault)
            if known in self._logged:
                continue
            if len(self._logged) >= _LOGGED_MAX:
                del self._logged[next(iter(self._logged))]
            self._logged[known] = None
            self.ignored[one.fault] += 1
            log.warning(
                "a control record is ignored; `tidelens control show` shows what stands",
                **asdict(one),
            )

    def wire(self) -> list[dict[str, Any]]:
        """Return them for operators, as /v1/status shows them."""
        return [asdict(one) for one in self.current]
