"""One target's records on their way: claimed, decoded, ready for the model, done, committed.

Rules only, no I/O: which partitions have enough under way, what goes into the next batch, and which
claims may be committed now. A claim is the unit of commit, a job that of encoding: a batch takes
what is ready of all partitions, and what waits for a slow download holds up its own partition only,
while there are places for the downloads of others (references/places.py).
"""

from collections import defaultdict, deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from consumers.encode_job import Job
from contracts.events.record import TopicPartition, record_bytes
from contracts.ports.ownership import Lease, RecordClaim
from contracts.topics import Target

# A partition may have this much of a lane's bytes, however many others share it.
_SHARES_MAX = 8

# Of claims put into one transaction: its outputs lie in memory twice until it ends.
_TRANSACTION_RECORDS_MAX = 1024


@dataclass(slots=True, eq=False)
class InflightClaim:
    """A claim with its jobs; it may be committed when none of them is open any more."""

    claim: RecordClaim
    jobs: Sequence[Job]
    size: int
    open_jobs: int = field(init=False)

    def __post_init__(self) -> None:
        self.open_jobs = len(self.jobs)


@dataclass(slots=True, eq=False)
class _LeaseQueue:
    """The inflight_claims of one lease, in source order."""

    inflight_claims: deque[InflightClaim] = field(default_factory=deque)
    records: int = 0
    size: int = 0
    committing: bool = False


@dataclass(slots=True, eq=False)
class EncodeTask:
    """A job that waits for the model, and the inflight that waits for it."""

    job: Job
    inflight: InflightClaim


class EncodeLane:
    """What one target has under way. Limits are in records of a partition and bytes in all."""

    def __init__(
        self, target: Target, *, batch_max: int, ahead_max: int, ahead_bytes_max: int
    ) -> None:
        self.target: Target = target
        self._batch_max = batch_max
        self._ahead_max = ahead_max
        self._ahead_bytes_max = ahead_bytes_max
        self._queues: dict[Lease, _LeaseQueue] = defaultdict(_LeaseQueue)
        self._ready: deque[EncodeTask] = deque()
        self._bytes = self._pixel_bytes = 0

    @property
    def ready(self) -> int:
        """Jobs that wait for the model."""
        return len(self._ready)

    @property
    def inflight_records(self) -> int:
        """Records that were claimed and are not committed."""
        return sum(queue.records for queue in self._queues.values())

    @property
    def has_room(self) -> bool:
        """For more records."""
        return self._bytes < self._ahead_bytes_max

    @property
    def has_room_for_pixels(self) -> bool:
        """A picture of 80 KB may be 50 MB when it is decoded: those wait in front of the decoder
        until the model has taken some."""
        return self._pixel_bytes < self._ahead_bytes_max

    def full_partitions(self, owned: int = 1) -> set[TopicPartition]:
        """Partitions that have enough under way, each its share of the bytes where so many are
        owned: the large records of one must not keep those of others from being fetched."""
        share = self._ahead_bytes_max / min(max(owned, 1), _SHARES_MAX)
        return {
            lease.partition
            for lease, queue in self._queues.items()
            if queue.records >= self._ahead_max or queue.size >= share
        }

    def add_claim(self, claim: RecordClaim, jobs: Sequence[Job]) -> InflightClaim:
        """A new inflight behind those of its partition."""
        size = sum(map(record_bytes, claim.records))
        inflight = InflightClaim(claim, jobs, size)
        queue = self._queues[claim.lease]
        queue.inflight_claims.append(inflight)
        queue.records += len(claim.records)
        queue.size += size
        self._bytes += size
        return inflight

    def enqueue(self, task: EncodeTask) -> None:
        """It is ready for the model."""
        self._ready.append(task)
        self._pixel_bytes += _pixel_bytes(task)

    def take_batch(self, *, full: bool) -> list[EncodeTask]:
        """What the model takes next, the longest waiting first; `full`: that many or none."""
        if full and len(self._ready) < self._batch_max:
            return []
        count = min(self._batch_max, len(self._ready))
        taken = [self._ready.popleft() for _ in range(count)]
        self._pixel_bytes -= sum(map(_pixel_bytes, taken))
        return taken

    def take_committable(self) -> list[tuple[Lease, list[InflightClaim]]]:
        """Claims to commit now: all that is done at the head of each queue that is not committing.

        Each is then this lane's no more once `mark_committed` is told.
        """
        found = []
        for lease, queue in self._queues.items():
            done: list[InflightClaim] = []
            records = 0
            for inflight in () if queue.committing else queue.inflight_claims:
                records += len(inflight.claim.records)
                if inflight.open_jobs or (done and records > _TRANSACTION_RECORDS_MAX):
                    break
                done.append(inflight)
            if done:
                queue.committing = True
                found.append((lease, done))
        return found

    def mark_committed(self, lease: Lease, inflight_claims: Sequence[InflightClaim]) -> None:
        """They were committed."""
        queue = self._queues.get(lease)
        if queue is None:
            return
        queue.committing = False
        for inflight in inflight_claims:
            first = queue.inflight_claims.popleft()
            if first is not inflight:
                expected, got = first.claim.next_position, inflight.claim.next_position
                raise RuntimeError(f"expected to commit up to {expected}, got {got}")
            queue.records -= len(inflight.claim.records)
            queue.size -= inflight.size
            self._bytes -= inflight.size
        if not queue.inflight_claims:
            del self._queues[lease]

    def drop_leases(self, ended: Iterable[Lease]) -> None:
        """Their records are somebody else's now."""
        gone: set[InflightClaim] = set()
        for lease in ended:
            queue = self._queues.pop(lease, None)
            if queue is not None:
                gone.update(queue.inflight_claims)
                self._bytes -= sum(inflight.size for inflight in queue.inflight_claims)
        if gone:
            self._ready = deque(e for e in self._ready if e.inflight not in gone)
            self._pixel_bytes = sum(map(_pixel_bytes, self._ready))

    def active_leases(self) -> list[Lease]:
        """Those with something under way."""
        return list(self._queues)


def _pixel_bytes(task: EncodeTask) -> int:
    return 0 if task.job.image is None else task.job.image.nbytes
