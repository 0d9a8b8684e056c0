"""The records of the control topic: how they are written, read and refused.

Every reader uses this module, so that all processes refuse the same records. A record without the
member `version` has version 1, and unknown members are skipped (docs/formats.md).
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Self

import orjson

from contracts.characters import escaped, is_blank
from contracts.errors import RejectedRecord
from contracts.events.format_version import unknown_version, version_of
from contracts.events.partition_count_record import PARTITIONS, RecordedPartitionCounts
from contracts.events.record import OutRecord, Record, record_bytes
from contracts.settings.bounds import TEXT_MAX
from contracts.space import SPACE_NAME, Space

ACTIVE = b"active-space"
CANDIDATE = b"candidate-space"

VERSION = 1
# The error code of a record whose key only another version may know.
UNKNOWN_KEY = "unknown_key"
# Two spaces with the longest possible names and models fit, with room to spare.
RECORD_BYTES_MAX = 65_536
# Clocks of machines differ by seconds. A time more than a day ahead is a wrong unit or invented.
AHEAD_S_MAX = 86_400.0

_FINGERPRINT = re.compile(r"[0-9a-f]{16}")
_SPACE_MEMBERS = ("space", "model", "fingerprint")


@dataclass(frozen=True, slots=True)
class SpaceRef:
    """A space by name and fingerprint, with the model that makes it on this machine.

    `model` does not count for equality, since the path of a folder may be written in several ways.
    """

    space: str
    model: str = field(compare=False)
    fingerprint: str

    @classmethod
    def of(cls, space: Space, model: str) -> Self:
        """Refer to `space`. `model` is the value of --model, which may be a folder's path."""
        return cls(space.name, model, space.fingerprint.hex())

    @classmethod
    def read(cls, body: Mapping[str, Any], where: str = "") -> Self:
        """Read a space from JSON members. `where` is the path of `body` in the record, with a dot.

        Raises RejectedRecord.
        """
        space, model, fingerprint = (_text(body, name, where) for name in _SPACE_MEMBERS)
        _require(SPACE_NAME.fullmatch(space), f"{where}space", space, "a space's name")
        visible = not is_blank(model) and escaped(model) == model and len(model) <= TEXT_MAX
        _require(visible, f"{where}model", model, f"one line of at most {TEXT_MAX} characters")
        hexadecimal = _FINGERPRINT.fullmatch(fingerprint)
        _require(hexadecimal, f"{where}fingerprint", fingerprint, "16 hexadecimal digits")
        return cls(space, model, fingerprint)


@dataclass(frozen=True, slots=True)
class ActiveSpace:
    """The space that nodes answer in, and the one that a rollback returns to, or None.

    `at` is the time of the switch in seconds since 1970.
    """

    current: SpaceRef
    previous: SpaceRef | None
    at: float

    def record(self, topic: str) -> OutRecord:
        """Return the record that makes this space the active one."""
        previous = None if self.previous is None else asdict(self.previous)
        body = {"version": VERSION, **asdict(self.current), "previous": previous, "at": self.at}
        return OutRecord(topic, ACTIVE, orjson.dumps(body), partition=0)

    @classmethod
    def read(cls, body: Mapping[str, Any], latest: float) -> Self:
        """Read the record's JSON. Raise RejectedRecord, also for a time later than `latest`."""
        _require_members(body, (*_SPACE_MEMBERS, "previous", "at"))
        current, previous = SpaceRef.read(body), body["previous"]
        if previous is not None:
            _require_members(previous, _SPACE_MEMBERS, "previous.")
            previous = SpaceRef.read(previous, "previous.")
            other = previous.space != current.space
            _require(other, "previous.space", previous.space, "another one than the active space")
        return cls(current, previous, _time(body, "at", latest))

    @property
    def served(self) -> list[SpaceRef]:
        """The spaces that nodes keep ready, the current one first."""
        return [self.current, *([self.previous] if self.previous else [])]


@dataclass(frozen=True, slots=True)
class CandidateSpace:
    """A space that is being made while another one answers.

    `encoded_at` is None until every record that existed at `started_at` has been encoded. Both are
    in seconds since 1970.
    """

    ref: SpaceRef
    started_at: float
    encoded_at: float | None = None

    def record(self, topic: str) -> OutRecord:
        """Return the record that names this space as the candidate."""
        times = {"started_at": self.started_at, "encoded_at": self.encoded_at}
        body = {"version": VERSION, **asdict(self.ref), **times}
        return OutRecord(topic, CANDIDATE, orjson.dumps(body), partition=0)

    @classmethod
    def read(cls, body: Mapping[str, Any], latest: float) -> Self:
        """Read the record's JSON. Raise RejectedRecord, also for a time later than `latest`."""
        _require_members(body, (*_SPACE_MEMBERS, "started_at", "encoded_at"))
        encoded = body["encoded_at"]
        return cls(
            SpaceRef.read(body),
            _time(body, "started_at", latest),
            None if encoded is None else _time(body, "encoded_at", latest),
        )


def no_candidate(topic: str) -> OutRecord:
    """Return the record that removes the candidate."""
    return OutRecord(topic, CANDIDATE, None, partition=0)


ControlValue = ActiveSpace | CandidateSpace | RecordedPartitionCounts | None

_READERS: Mapping[bytes, Callable[[Mapping[str, Any], float], ControlValue]] = {
    ACTIVE: ActiveSpace.read,
    CANDIDATE: CandidateSpace.read,
    PARTITIONS: RecordedPartitionCounts.read,
}


def read_record(record: Record, now: float) -> ControlValue:
    """Return the content of a control record, or None for a tombstone. Raises RejectedRecord."""
    size = record_bytes(record)
    if size > RECORD_BYTES_MAX:
        raise RejectedRecord.over(
            "too_large", RECORD_BYTES_MAX, size, field="record", unit="bytes of key and value"
        )
    read = _READERS.get(record.key or b"")
    if read is None:
        if record.key and record.value is None:
            return None  # a tombstone of a key that this version does not know
        known = ", ".join(key.decode() for key in _READERS)
        raise RejectedRecord(UNKNOWN_KEY, f"key: want one of {known}", field="key")
    if record.value is None:
        if record.key == ACTIVE:
            raise RejectedRecord("no_value", "a tombstone, although some space is always active")
        return None
    try:
        body = orjson.loads(record.value)
    except orjson.JSONDecodeError as error:
        raise RejectedRecord("not_json", f"not JSON ({error})") from None
    _require_version(body)
    # The broker's append time counts too, so that a reader with a slow clock refuses nothing.
    return read(body, max(now, record.timestamp_ms / 1000) + AHEAD_S_MAX)


def _require_version(body: Any) -> None:
    _require_object(body, "record")
    found = version_of(body)
    if found != VERSION or type(found) is not int:
        message = unknown_version("control record", found, VERSION)
        raise RejectedRecord("unknown_version", message, field="version", limit=VERSION)


def _require_object(body: Any, name: str) -> None:
    if type(body) is not dict:
        raise RejectedRecord(
            "wrong_type", f"{name}: want a JSON object, got {_shown(body)}", field=name
        )


def _require_members(body: Any, names: tuple[str, ...], where: str = "") -> None:
    _require_object(body, where.rstrip("."))
    for name in names:
        if name not in body:
            raise RejectedRecord("missing_field", f"{where}{name}: missing", field=where + name)


def _text(body: Mapping[str, Any], name: str, where: str) -> str:
    value = body[name]
    if type(value) is not str:
        raise RejectedRecord(
            "wrong_type", f"{where}{name}: want a string, got {_shown(value)}", field=where + name
        )
    return value


def _time(body: Mapping[str, Any], name: str, latest: float) -> float:
    value = body[name]
    if type(value) not in (int, float):
        raise RejectedRecord(
            "wrong_type", f"{name}: want seconds since 1970, got {_shown(value)}", field=name
        )
    # NaN fails both comparisons.
    _require(0 <= value <= latest, name, value, f"seconds since 1970, at most {latest:.0f}")
    return float(value)


def _require(holds: object, name: str, value: Any, want: str) -> None:
    if not holds:
        message = f"{name}: want {want}, got {_shown(value)}"
        raise RejectedRecord("impossible_value", message, field=name, value=_shown(value))


def _shown(value: Any) -> str:
    shown = escaped(repr(value))
    return shown if len(shown) <= 100 else f"{shown[:100]}..."
