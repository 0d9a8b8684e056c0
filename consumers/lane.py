"""The records of one target that are being encoded, from their claim to its commit.

This module holds rules only, without I/O: which partitions have enough records in flight, what goes
into the next batch, and which claims may be committed now. A claim is the unit of commit, a job the
unit of encoding. A batch takes what is ready from all partitions, so a slow download delays its own
partition only, as long as other partitions still get permits (references/permits.py).

The states of an in-flight claim (`ClaimState`):

    from                         by                                           to
    ENCODING                     `finish_job` of its last open job            DONE
    DONE                         `take_committable`, at the head of its       COMMITTING
                                 lease's queue, or behind DONE claims only
    COMMITTING                   `mark_committed`, in order                   COMMITTED
    ENCODING, DONE, COMMITTING   `drop_leases`, once the lease has ended      DROPPED

A claim without open jobs begins as DONE. COMMITTED and DROPPED are final: a job of a dropped claim
that the model still has may finish, which changes nothing. Any other step raises WrongStep.
"""

from collections import defaultdict, deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import Enum
from itertools import takewhile

from consumers.encode_job import EncodeJob
from contracts.events.record import TopicPartition, record_bytes
from contracts.ports.ownership import Lease, RecordClaim
from contracts.topics import Target
from contracts.wrong_step import WrongStep, require_state

# The share of a lane's bytes that a partition may always use is one part in this many.
_SHARES_MAX = 8

# The most records of several claims in one transaction, whose outputs are in memory twice until it
# ends. A single claim may be larger.
_TRANSACTION_RECORDS_MAX = 1024


class ClaimState(Enum):
    """The state of an in-flight claim; the table of transitions is in the module's docstring."""

    ENCODING = "encoding"
    DONE = "done"
    COMMITTING = "committing"
    COMMITTED = "committed"
    DROPPED = "dropped"


_BEFORE = {
    ClaimState.DONE: (ClaimState.ENCODING,),
    ClaimState.COMMITTING: (ClaimState.DONE,),
    ClaimState.COMMITTED: (ClaimState.COMMITTING,),
    ClaimState.DROPPED: (ClaimState.ENCODING, ClaimState.DONE, ClaimState.COMMITTING),
}


@dataclass(slots=True, eq=False)
class InflightClaim:
    """A claim with its jobs, of which `open_jobs` have no result yet; `size` is in bytes."""

    claim: RecordClaim
    jobs: Sequence[EncodeJob]
    size: int
    open_jobs: int = field(init=False)
    state: ClaimState = field(init=False)

    def __post_init__(self) -> None:
        self.open_jobs = len(self.jobs)
        self.state = ClaimState.ENCODING if self.jobs else ClaimState.DONE

    def finish_job(self) -> None:
        """Count one of its jobs as done. Raises WrongStep when none is open."""
        if not self.open_jobs:
            raise WrongStep(f"expected an open job, got a claim that is {self.state.value}")
        self.open_jobs -= 1
        if not self.open_jobs and self.state is not ClaimState.DROPPED:
            self.move_to(ClaimState.DONE)

    def move_to(self, state: ClaimState) -> None:
        """Make a step of the table in the module's docstring. Raises WrongStep for any other."""
        require_state(f"claim that becomes {state.name}", self.state, *_BEFORE[state])
        self.state = state


@dataclass(slots=True, eq=False)
class EncodeTask:
    """A job that waits for the model, with the in-flight claim that it belongs to."""

    job: EncodeJob
    inflight: InflightClaim


@dataclass(slots=True, eq=False)
class _LeaseQueue:
    """The in-flight claims of one lease, in source order, with the sums of their records."""

    claims: deque[InflightClaim] = field(default_factory=deque)
    records: int = 0
    size: int = 0

    def add(self, inflight: InflightClaim) -> None:
        self.claims.append(inflight)
        self.records += len(inflight.claim.records)
        self.size += inflight.size

    def take_committable(self) -> list[InflightClaim]:
        """Begin to commit the done claims at the head, up to the limit of a transaction.

        The result is empty while an earlier commit has not ended: it stands at the head.
        """
        taken: list[InflightClaim] = []
        records = 0
        for inflight in takewhile(lambda one: one.state is ClaimState.DONE, self.claims):
            records += len(inflight.claim.records)
            if taken and records > _TRANSACTION_RECORDS_MAX:
                break
            taken.append(inflight)
        for inflight in taken:
            inflight.move_to(ClaimState.COMMITTING)
        return taken

    def remove_committed(self, inflight: InflightClaim) -> None:
        first = self.claims.popleft()
        if first is not inflight:
            expected, got = first.claim.next_position, inflight.claim.next_position
            raise WrongStep(f"expected to commit up to {expected}, got {got}")
        inflight.move_to(ClaimState.COMMITTED)
        self.records -= len(inflight.claim.records)
        self.size -= inflight.size


class EncodeLane:
    """The in-flight claims of one target, and those of their jobs that are ready for the model.

    `batch_max` is in jobs, `ahead_max` in records of one partition, and `ahead_bytes_max` in bytes
    of all partitions together. None of them is exceeded by more than one claim or picture.
    """

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
        """The number of jobs that wait for the model."""
        return len(self._ready)

    @property
    def inflight_records(self) -> int:
        """The number of records that were claimed and are not committed."""
        return sum(queue.records for queue in self._queues.values())

    @property
    def has_room(self) -> bool:
        """True while more records may be fetched."""
        return self._bytes < self._ahead_bytes_max

    @property
    def has_room_for_pixels(self) -> bool:
        """True while more pictures may be decoded.

        A picture of 80 KB may have 50 MB of pixels, so pictures wait for the decoder until the
        model has taken some of those that are decoded.
        """
        return self._pixel_bytes < self._ahead_bytes_max

    def full_partitions(self, owned: int = 1) -> set[TopicPartition]:
        """Return the partitions that have enough records or bytes in flight.

        Each of the `owned` partitions has its share of the bytes, so that large records in one
        partition do not keep the records of the others from being fetched.
        """
        share = self._ahead_bytes_max / min(max(owned, 1), _SHARES_MAX)
        return {
            lease.partition
            for lease, queue in self._queues.items()
            if queue.records >= self._ahead_max or queue.size >= share
        }

    def add_claim(self, claim: RecordClaim, jobs: Sequence[EncodeJob]) -> InflightClaim:
        """Take a claim in, behind those of its lease, and return it with its jobs."""
        inflight = InflightClaim(claim, jobs, sum(map(record_bytes, claim.records)))
        self._queues[claim.lease].add(inflight)
        self._bytes += inflight.size
        return inflight

    def enqueue(self, task: EncodeTask) -> None:
        """Let a task wait for the model."""
        self._ready.append(task)
        self._pixel_bytes += _pixel_bytes(task)

    def take_batch(self, *, full: bool) -> list[EncodeTask]:
        """Take the tasks that wait longest, up to a batch; with `full`, a whole batch or none."""
        if full and len(self._ready) < self._batch_max:
            return []
        count = min(self._batch_max, len(self._ready))
        taken = [self._ready.popleft() for _ in range(count)]
        self._pixel_bytes -= sum(map(_pixel_bytes, taken))
        return taken

    def take_committable(self) -> list[tuple[Lease, list[InflightClaim]]]:
        """Begin to commit all claims that can be, and return them by lease, in source order.

        There is one commit at a time for each lease. The claims stay in the lane until
        `mark_committed` or `drop_leases`.
        """
        taken = ((lease, queue.take_committable()) for lease, queue in self._queues.items())
        return [(lease, claims) for lease, claims in taken if claims]

    def mark_committed(self, lease: Lease, inflight_claims: Sequence[InflightClaim]) -> None:
        """Take claims out that were committed, unless their lease was dropped meanwhile.

        Raises WrongStep if they are not the first claims of the lease.
        """
        queue = self._queues.get(lease)
        if queue is None:
            return
        for inflight in inflight_claims:
            queue.remove_committed(inflight)
            self._bytes -= inflight.size
        if not queue.claims:
            del self._queues[lease]

    def drop_leases(self, ended: Iterable[Lease]) -> None:
        """Take out the claims and tasks of leases that have ended: they have another owner now."""
        gone: set[InflightClaim] = set()
        for lease in ended:
            queue = self._queues.pop(lease, None)
            if queue is not None:
                gone.update(queue.claims)
                self._bytes -= queue.size
        for inflight in gone:
            inflight.move_to(ClaimState.DROPPED)
        if gone:
            self._ready = deque(task for task in self._ready if task.inflight not in gone)
            self._pixel_bytes = sum(map(_pixel_bytes, self._ready))

    def active_leases(self) -> list[Lease]:
        """Return the leases that have claims in flight."""
        return list(self._queues)


def _pixel_bytes(task: EncodeTask) -> int:
    return 0 if task.job.image is None else task.job.image.nbytes
