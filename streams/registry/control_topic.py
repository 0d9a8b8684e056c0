"""The control topic: which space is served, and which one is being made beside it.

The topic is compacted, with one partition and a few records of small JSON, and every node reads it.
A record that cannot be read, or that names a space which does not exist, is logged and counted and
changes nothing: the newest good record of its key stands. So no record keeps a node from starting.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace

import structlog
from aiokafka.errors import KafkaError

from contracts.errors import (
    LogChanged,
    ModelMissing,
    RejectedRecord,
    SpaceMismatch,
    TidelensError,
    TopicAbsent,
    TopicMismatch,
)
from contracts.events.control_record import (
    ACTIVE,
    CANDIDATE,
    ActiveSpace,
    CandidateSpace,
    ControlValue,
    SpaceRef,
    read_record,
)
from contracts.events.partition_count_record import PARTITIONS, RecordedPartitionCounts
from contracts.events.record import Record, TopicPartition
from contracts.ports.event_log import EventLog
from contracts.space import Space
from contracts.topics import TARGETS, Names
from streams.kafka.partition_scan import read_existing, read_to_end
from streams.registry.control_faults import IgnoredRecord, IgnoredRecords
from streams.topics.identity import PeriodicIdentityCheck

log = structlog.get_logger(__name__)

_WAIT_MS = 500
_RETRY_S = 1.0
# A space may become possible: its topics were just made, or its model was copied here.
_RECHECK_S = 10.0
# The entries of one key that are kept, the one that stands among them.
_KEPT_MAX = 1_000
_BEFORE_MAX = 10
_OTHER = b""
_NOT_ALLOWED = "not_allowed"

SpaceCheck = Callable[[SpaceRef], Awaitable[None]]
"""A call that raises TidelensError for a space that can be neither served nor made."""


def require_same(ref: SpaceRef, space: Space) -> None:
    """Raise SpaceMismatch unless `space`, as the model makes it here, is the one referred to."""
    if (ref.space, ref.fingerprint) != (space.name, space.fingerprint.hex()):
        raise SpaceMismatch(
            f"model {ref.model!r} makes space {space.name} ({space.fingerprint.hex()}) here, "
            f"want {ref.space} ({ref.fingerprint})"
        )


@dataclass(frozen=True, slots=True)
class Control:
    """The state that the control topic describes."""

    active: ActiveSpace | None = None
    candidate: CandidateSpace | None = None
    refused: tuple[IgnoredRecord, ...] = field(default=(), compare=False)
    """Records that are ignored, and that no good one has replaced."""
    before: tuple[SpaceRef, ...] = field(default=(), compare=False)
    """The spaces that earlier records named as active, the newest first."""
    counts: RecordedPartitionCounts | None = field(default=None, compare=False)
    unknown_keys: tuple[bytes, ...] = field(default=(), compare=False)
    """The unknown keys of ignored records, which another version may know."""

    @property
    def spaces(self) -> list[str]:
        """Return the spaces served, the current one first, then the one being made."""
        served = [] if self.active is None else [ref.space for ref in self.active.served]
        made = [] if self.candidate is None else [self.candidate.ref.space]
        return list(dict.fromkeys([*served, *made]))

    @property
    def active_refused(self) -> bool:
        """Return whether a record about the active space is ignored."""
        return any(one.key == ACTIVE.decode() for one in self.refused)


@dataclass(frozen=True, slots=True)
class _ControlEntry:
    """One record, and what it says or what is wrong with it."""

    record: Record
    said: ControlValue = None
    fault: RejectedRecord | None = None


class ControlFold:
    """The records of the topic as they come, and which one of each key stands.

    A space that `check` refuses is checked again after `recheck_s` seconds. The fold keeps at
    most `kept_max` records of each key, and as many verdicts on spaces.
    """

    def __init__(
        self,
        check: SpaceCheck,
        now: Callable[[], float] = time.time,
        *,
        recheck_s: float = _RECHECK_S,
        kept_max: int = _KEPT_MAX,
    ) -> None:
        self._check_space = check
        self._now = now
        self._recheck_s = recheck_s
        self._kept_max = kept_max
        self._entries: dict[bytes, list[_ControlEntry]] = {
            key: [] for key in (ACTIVE, CANDIDATE, PARTITIONS, _OTHER)
        }
        """The entries that may still stand, the newest last; the first stood at the last call."""
        self._verdicts: dict[tuple[SpaceRef, str], _Verdict] = {}
        self._before: list[SpaceRef] = []

    def add(self, record: Record) -> None:
        """Apply one more record."""
        # Drop the values, which are large and not needed again.
        bare = replace(record, value=None, headers=())
        try:
            entry = _ControlEntry(bare, said=read_record(record, self._now()))
        except RejectedRecord as error:
            entry = _ControlEntry(bare, fault=error)
        entries = self._entries.get(record.key or _OTHER, self._entries[_OTHER])
        if entries is self._entries[_OTHER] and entry.fault is None:
            entries[:] = [known for known in entries if known.record.key != record.key]
            return
        entries.append(entry)
        if len(entries) > self._kept_max:
            # Keep the first, which may be the one that stands.
            del entries[1]

    async def current(self) -> Control:
        """Return what stands now. Raises what the check raises about the log itself."""
        refused: list[IgnoredRecord] = [
            IgnoredRecord.of(entry.record, entry.fault)
            for entry in self._entries[_OTHER]
            if entry.fault
        ]
        active = await self._current_value(ACTIVE, refused)
        if active is None:
            active = await self._previous()
        candidate = await self._current_value(CANDIDATE, refused)
        counts = await self._current_value(PARTITIONS, refused)
        assert active is None or isinstance(active, ActiveSpace)
        assert candidate is None or isinstance(candidate, CandidateSpace)
        assert counts is None or isinstance(counts, RecordedPartitionCounts)
        unknown = dict.fromkeys(entry.record.key or b"" for entry in self._entries[_OTHER])
        before = tuple(reversed(self._before))
        return Control(active, candidate, tuple(refused), before, counts, tuple(unknown))

    async def _current_value(self, key: bytes, refused: list[IgnoredRecord]) -> ControlValue:
        """Return what the newest good record says, and add those that came after it to `refused`.

        The older ones are forgotten.
        """
        entries = self._entries[key]
        for index in range(len(entries) - 1, -1, -1):
            entry = entries[index]
            fault = entry.fault or await self._fault(_named(entry.said))
            # Only the processes that make a candidate need rights on its topics.
            if fault is None or (key == CANDIDATE and fault.code == _NOT_ALLOWED):
                self._forget(entries[:index])
                del entries[:index]
                return entry.said
            refused.append(IgnoredRecord.of(entry.record, fault))
        return None

    def _forget(self, entries: Sequence[_ControlEntry]) -> None:
        for entry in entries:
            if isinstance(entry.said, ActiveSpace):
                current = entry.said.current
                self._before = [ref for ref in self._before if ref != current][-_BEFORE_MAX:]
                self._before.append(current)

    async def _previous(self) -> ActiveSpace | None:
        """Return the space before the impossible ones, as the newest record names it."""
        for entry in reversed(self._entries[ACTIVE]):
            if isinstance(entry.said, ActiveSpace) and entry.said.previous is not None:
                previous = entry.said.previous
                if await self._fault(previous) is None:
                    return ActiveSpace(previous, None, entry.said.at)
        return None

    async def _fault(self, ref: SpaceRef | None) -> RejectedRecord | None:
        """Return why that space is impossible; a negative verdict is checked again later."""
        if ref is None:
            return None
        key = (ref, ref.model)
        known = self._verdicts.get(key)
        if known is None or (known.fault and time.monotonic() - known.at >= self._recheck_s):
            if len(self._verdicts) >= self._kept_max:
                self._verdicts.clear()
            known = self._verdicts[key] = _Verdict(await self._verdict_on(ref), time.monotonic())
        return known.fault

    async def _verdict_on(self, ref: SpaceRef) -> RejectedRecord | None:
        try:
            await self._check_space(ref)
        except TopicAbsent as error:
            return RejectedRecord("no_such_space", f"space {ref.space}: {error}", field="space")
        except TopicMismatch as error:
            return RejectedRecord(_NOT_ALLOWED, f"space {ref.space}: {error}", field="space")
        except (ModelMissing, SpaceMismatch) as error:
            return RejectedRecord("not_here", f"space {ref.space}: {error}", field="model")
        return None


@dataclass(frozen=True, slots=True)
class _Verdict:
    fault: RejectedRecord | None
    at: float


def _named(said: ControlValue) -> SpaceRef | None:
    """Return the space that must be there for a record to stand."""
    if isinstance(said, ActiveSpace):
        return said.current
    return said.ref if isinstance(said, CandidateSpace) else None


def topics_exist(event_log: EventLog, control_topic: str) -> SpaceCheck:
    """Return a check that requires the space's embeddings topics in this collection."""

    async def check(ref: SpaceRef) -> None:
        names = Names(control_topic.removesuffix("control"), ref.space)
        await event_log.partition_counts([names.embeddings(target) for target in TARGETS])

    return check


class ControlTopic:
    """The control topic of one collection, as one reader of it sees it.

    `faults` collects the records that are ignored, under the name `reader`. `check` refuses spaces
    that this reader cannot serve; without it, a space's embeddings topics must exist. A refused
    space is checked again after `recheck_s` seconds, and a follower that failed reads the topic
    again after `retry_s` seconds.
    """

    def __init__(
        self,
        event_log: EventLog,
        topic: str,
        *,
        faults: IgnoredRecords | None = None,
        reader: str = "node",
        check: SpaceCheck | None = None,
        recheck_s: float = _RECHECK_S,
        retry_s: float = _RETRY_S,
    ) -> None:
        self._log = event_log
        self._topic = topic
        self._faults = faults or IgnoredRecords()
        self._reader = reader
        self._check_space = check or topics_exist(event_log, topic)
        self._recheck_s = recheck_s
        self._retry_s = retry_s

    async def read(self) -> Control:
        """Return what the topic says now. Raises TopicMismatch where there is no such topic."""
        await self._log.partition_counts([self._topic])
        fold = ControlFold(self._check_space, recheck_s=self._recheck_s)
        async for record in read_existing(self._log, {TopicPartition(self._topic, 0): None}):
            fold.add(record)
        control = await fold.current()
        self._faults.show(self._reader, control.refused)
        return control

    async def follow(self) -> AsyncIterator[Control]:
        """Yield what the topic says now, then after every change, without end.

        While the broker is away it waits, and then reads the topic from its beginning.
        """
        known: Control | None = None
        while True:
            try:
                async for control in self._states():
                    self._faults.show(self._reader, control.refused)
                    if known is not None and known.active is not None and control.active is None:
                        # Some space is always active, so the topic was emptied or made again.
                        control = replace(control, active=known.active)
                    if control != known:
                        known = control
                        yield control
            except (LogChanged, KafkaError, TidelensError, OSError) as error:
                log.warning("reading the control topic again", reason=str(error))
                await asyncio.sleep(self._retry_s)

    async def _states(self) -> AsyncIterator[Control]:
        """Yield the state at the end of the topic, and one after each fetch."""
        partition = TopicPartition(self._topic, 0)
        same = PeriodicIdentityCheck(self._log, await self._log.topic_ids([self._topic]))
        reader = await self._log.tail({partition: None})
        try:
            # As one state: a later record may take an earlier one back.
            fold = ControlFold(self._check_space, recheck_s=self._recheck_s)
            async for record in read_to_end(reader):
                fold.add(record)
            yield await fold.current()
            while True:
                fetched = await reader.fetch(records_max=100, timeout_ms=_WAIT_MS)
                await same.require()
                for record in fetched.records.get(partition, []):
                    fold.add(record)
                yield await fold.current()
        finally:
            await reader.close()
