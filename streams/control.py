"""The control topic: which space is served, and which one is being made beside it.

Compacted, one partition, a few records of small JSON, read by every node. A record that cannot be
read is logged and changes nothing: a node must not stop for what another version wrote.
"""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Self

import orjson
import structlog
from aiokafka.errors import KafkaError

from contracts.errors import LogChanged, SpaceMismatch, TidelensError
from contracts.formats import unknown, version_of
from contracts.ports import EventLog
from contracts.records import OutRecord, Record, TopicPartition
from contracts.space import Space
from streams.identities import Recheck
from streams.reading import records_now, to_the_end

log = structlog.get_logger(__name__)

ACTIVE = b"active-space"
CANDIDATE = b"candidate-space"
# Of the bodies; one that has no member `version` is of the first.
VERSION = 1

_WAIT_MS = 500
_AGAIN_S = 1.0


@dataclass(frozen=True, slots=True)
class SpaceRef:
    """A space by name and fingerprint, and the model that makes it here.

    `model` is not compared: a folder may be written in several ways.
    """

    space: str
    model: str = field(compare=False)
    fingerprint: str

    @classmethod
    def of(cls, space: Space, model: str) -> Self:
        """`model` is what --model takes; Space.model lacks a folder's path."""
        return cls(space.name, model, space.fingerprint.hex())

    @classmethod
    def read(cls, body: Any) -> Self:
        """Raises KeyError, TypeError and ValueError for what is not one."""
        members = [body[name] for name in ("space", "model", "fingerprint")]
        if not all(isinstance(member, str) and member for member in members):
            raise ValueError("space, model and fingerprint must be texts")
        return cls(*members)


def require_same(ref: SpaceRef, space: Space) -> None:
    """Raise SpaceMismatch unless `space`, as the model makes it here, is the one referred to."""
    if (ref.space, ref.fingerprint) != (space.name, space.fingerprint.hex()):
        raise SpaceMismatch(
            f"model {ref.model!r} makes space {space.name} ({space.fingerprint.hex()}) here, "
            f"want {ref.space} ({ref.fingerprint})"
        )


@dataclass(frozen=True, slots=True)
class ActiveSpace:
    """The space that nodes answer in, and the one kept warm for a rollback (None: given up)."""

    current: SpaceRef
    previous: SpaceRef | None
    at: float

    def record(self, topic: str) -> OutRecord:
        previous = None if self.previous is None else asdict(self.previous)
        body = {**asdict(self.current), "previous": previous, "at": self.at}
        return OutRecord(topic, ACTIVE, orjson.dumps(body), partition=0)

    @classmethod
    def read(cls, body: Any) -> Self:
        previous = body["previous"]
        kept = None if previous is None else SpaceRef.read(previous)
        return cls(SpaceRef.read(body), kept, float(body["at"]))

    @property
    def served(self) -> list[SpaceRef]:
        """What nodes keep ready: the current space first."""
        return [self.current, *([self.previous] if self.previous else [])]


@dataclass(frozen=True, slots=True)
class CandidateSpace:
    """A space being made beside live traffic. `encoded_at` None: its first pass still runs."""

    made: SpaceRef
    started_at: float
    encoded_at: float | None = None

    def record(self, topic: str) -> OutRecord:
        times = {"started_at": self.started_at, "encoded_at": self.encoded_at}
        return OutRecord(
            topic, CANDIDATE, orjson.dumps({**asdict(self.made), **times}), partition=0
        )

    @classmethod
    def read(cls, body: Any) -> Self:
        encoded = body["encoded_at"]
        return cls(
            SpaceRef.read(body),
            float(body["started_at"]),
            None if encoded is None else float(encoded),
        )


def no_candidate(topic: str) -> OutRecord:
    """There is no candidate any more."""
    return OutRecord(topic, CANDIDATE, None, partition=0)


@dataclass(frozen=True, slots=True)
class Control:
    """What the control topic says, all of it."""

    active: ActiveSpace | None = None
    candidate: CandidateSpace | None = None

    @property
    def spaces(self) -> list[str]:
        """Those served, the current one first, then the one being made."""
        served = [] if self.active is None else [ref.space for ref in self.active.served]
        made = [] if self.candidate is None else [self.candidate.made.space]
        return list(dict.fromkeys([*served, *made]))

    def after(self, record: Record) -> "Control":
        """With one more record applied; keys and bodies that are not ours change nothing."""
        try:
            body = None if record.value is None else orjson.loads(record.value)
            if record.key in (ACTIVE, CANDIDATE):
                _require_known(body)
            if record.key == ACTIVE:
                return replace(self, active=None if body is None else ActiveSpace.read(body))
            if record.key == CANDIDATE:
                candidate = None if body is None else CandidateSpace.read(body)
                return replace(self, candidate=candidate)
        except (orjson.JSONDecodeError, KeyError, TypeError, ValueError) as error:
            key = (record.key or b"").decode("utf-8", "replace")
            log.error("unreadable control record", key=key, offset=record.offset, error=str(error))
        return self


def _require_known(body: Any) -> None:
    """Raise ValueError where another version wrote the body."""
    found = version_of(body) if isinstance(body, dict) else VERSION
    if found != VERSION:
        raise ValueError(unknown("control record", found, VERSION))


async def read_control(event_log: EventLog, topic: str) -> Control:
    """What it says now. Raises TopicMismatch where there is no such topic."""
    await event_log.partition_counts([topic])
    control = Control()
    async for record in records_now(event_log, {TopicPartition(topic, 0): None}):
        control = control.after(record)
    return control


async def follow_control(event_log: EventLog, topic: str) -> AsyncIterator[Control]:
    """What it says now, then after every change, for ever; a broker that is away is waited for."""
    known: Control | None = None
    while True:
        try:
            async for control in _followed(event_log, topic):
                if control != known:
                    known = control
                    yield control
        except (LogChanged, KafkaError, TidelensError, OSError) as error:
            log.warning("reading the control topic anew", reason=str(error))
            await asyncio.sleep(_AGAIN_S)


async def _followed(event_log: EventLog, topic: str) -> AsyncIterator[Control]:
    partition = TopicPartition(topic, 0)
    same = Recheck(event_log, await event_log.topic_ids([topic]))
    reader = await event_log.tail({partition: None})
    try:
        # As one state: a later record may take an earlier one back.
        control = Control()
        async for record in to_the_end(reader):
            control = control.after(record)
        yield control
        while True:
            fetched = await reader.fetch(records_max=100, timeout_ms=_WAIT_MS)
            await same.require()
            for record in fetched.records.get(partition, []):
                control = control.after(record)
            yield control
    finally:
        await reader.close()
