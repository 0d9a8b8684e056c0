"""The schedule by which a node writes snapshots, and the state of the last one."""

import asyncio
from collections.abc import Mapping
from time import perf_counter
from typing import Any

import structlog

from contracts.errors import SnapshotFailed, SnapshotRefused
from contracts.events.record import TopicPartition
from contracts.metrics import Metrics
from contracts.ports.clock import Clock
from index_store.index import Index
from index_store.snapshot.store import SnapshotStore
from streams.maintainer.restore_policy import require_restorable

log = structlog.get_logger(__name__)

_RESTORE_PAUSES_S = (1.0, 4.0)


class SnapshotSchedule:
    """The writer of snapshots: a changed state is written when it is old or much was applied since.

    The snapshot of an unchanged state is written again after `refresh_s`, so that its time of
    having seen everything does not age (invariant 7); that costs a manifest. Every `check_s` a
    listing shows whether the store still has what was written to it.
    """

    def __init__(
        self,
        snapshots: SnapshotStore,
        metrics: Metrics,
        clock: Clock,
        *,
        every_s: float,
        every_records: int,
        refresh_s: float,
        check_s: float = 300.0,
    ) -> None:
        self._snapshots = snapshots
        self._metrics = metrics
        self._clock = clock
        self._every_s = every_s
        self._every_records = every_records
        self._refresh_s = refresh_s
        self._check_s = check_s
        self._checked_at = clock.now()
        self._unseen: dict[str, Any] | None = None
        self._positions: Mapping[TopicPartition, int] = {}
        self._tried_at = clock.now()
        self._last: dict[str, Any] | None = None
        self._failure: dict[str, Any] | None = None
        self._chosen: str | None = None
        self._writing = asyncio.Lock()

    async def restore(self, empty: Index) -> Index | None:
        """Restore the best valid snapshot; None if there is none, or if the store is away.

        A snapshot that cannot be read is tried again before another one or the log is used instead.
        The log has everything too, so no start waits for a store for longer than a moment.
        """
        for pause_s in (*_RESTORE_PAUSES_S, None):
            try:
                return await self._snapshots.restore(empty, skip_unread=pause_s is None)
            except Exception as error:
                # A node can start without the store, whatever it answered.
                message = _reason_of(error)
                log.warning("snapshots cannot be read", error=message, again_in_s=pause_s)
                if pause_s is not None:
                    await asyncio.sleep(pause_s)
        return None

    async def tidy(self, index: Index) -> None:
        """Delete local files that the index no longer needs, as after a merge."""
        try:
            await self._snapshots.tidy(index)
        except OSError as error:
            log.warning("files could not be deleted", error=str(error))

    def start_from(self, index: Index) -> None:
        """Count changes from this state on."""
        # A snapshot chosen before a rebuild from the log would only lead to another one.
        self._chosen = None
        self._positions = dict(index.positions)
        self._tried_at = self._clock.now()

    def describe(self) -> dict[str, Any]:
        """Return the last snapshot (name, at, seconds), the failure since it, and the one chosen.

        `lacking` counts by snapshot the blobs that the store did not have at the last look.
        """
        return {
            "last": self._last,
            "failure": self._unseen or self._failure,
            "chosen": self._chosen,
            "lacking": {name: len(blobs) for name, blobs in self._snapshots.own.incomplete.items()},
        }

    async def choose_restore(self, name: str, index: Index, *, retention_s: float) -> None:
        """Let the next start begin from `name` (REPLICA/NAME); until then nothing is written.

        A newer snapshot, such as that of a clean stop, would be restored instead of it. Raises
        SnapshotRefused and SnapshotFailed.
        """
        async with self._writing:
            now = self._clock.now()
            try:
                await require_restorable(
                    self._snapshots, name, index, now=now, retention_s=retention_s
                )
            except SnapshotRefused:
                raise
            except Exception as error:
                message = f"the snapshot could not be chosen: {_reason_of(error)}"
                raise SnapshotFailed(message) from error
            self._chosen = name

    def changed(self, index: Index) -> bool:
        return self._chosen is None and index.positions != self._positions

    def due(self, index: Index) -> bool:
        if self._chosen is not None:
            return False
        age = self._clock.now() - self._tried_at
        if not self.changed(index):
            return age >= self._refresh_s
        applied = sum(index.positions.values()) - sum(self._positions.values())
        # A failed one is not tried again before its time, however much comes in.
        many = applied >= self._every_records and self._failure is None
        return age >= self._every_s or many

    async def write(self, index: Index) -> str:
        """Write a snapshot and return its name. Raises SnapshotFailed; searching goes on either
        way.
        """
        async with self._writing:
            if self._chosen is not None:
                raise SnapshotFailed(
                    f"{self._chosen} was chosen for the next start: restart this node first"
                )
            positions, began = dict(index.positions), perf_counter()
            self._tried_at = self._clock.now()
            rewritten = self._snapshots.rewritten_blobs
            try:
                name = await self._snapshots.write(index)
            except Exception as error:
                # Any error here is the snapshot's failure and not the node's.
                self._metrics.snapshots.labels("failed").inc()
                self._metrics.snapshot_failed_at.set(self._clock.now())
                self._failure = {"reason": _reason_of(error), "at": self._clock.now()}
                message = f"the snapshot could not be written: {_reason_of(error)}"
                raise SnapshotFailed(message) from error
            self._positions, self._failure = positions, None
            self._metrics.snapshot_blobs_rewritten.inc(self._snapshots.rewritten_blobs - rewritten)
            self._show_lacking()
            self._metrics.snapshots.labels("written").inc()
            self._metrics.snapshot_at.set(self._clock.now())
            self._last = {
                "name": name,
                "at": self._clock.now(),
                "seconds": round(perf_counter() - began, 3),
            }
            return name

    async def has_lost_blobs(self) -> bool:
        """List the store when that is due, and return whether it lost blobs of the newest snapshot.

        A store that does not answer is shown as a failure until it does.
        """
        own = self._snapshots.own
        if own.newest is None or self._clock.now() - self._checked_at < self._check_s:
            return False
        async with self._writing:
            self._checked_at = self._clock.now()
            try:
                await own.update_incomplete()
            except Exception as error:
                self._unseen = {"reason": _reason_of(error), "at": self._clock.now()}
                log.warning("snapshots cannot be listed", error=_reason_of(error))
                return False
            self._show_lacking()
        blobs = own.incomplete.get(own.newest)
        if blobs is None:
            return False
        reason = f"{own.newest}: blobs that the store lacks: {len(blobs)}, the first {blobs[0]}"
        self._failure = {"reason": reason, "at": self._clock.now()}
        log.error("a snapshot is not whole any more", reason=reason)
        return self._chosen is None

    def _show_lacking(self) -> None:
        self._checked_at, self._unseen = self._clock.now(), None
        lacking = self._snapshots.own.incomplete.values()
        self._metrics.snapshot_blobs_lacking.set(sum(map(len, lacking)))


def _reason_of(error: Exception) -> str:
    """Return the reason; an unforeseen error says little without its name."""
    return str(error) if isinstance(error, OSError) else f"{type(error).__name__}: {error}"
