"""A picture's bytes, inline or by reference, to what the model takes: the waiting part of a job."""

from collections.abc import Awaitable, Callable, Hashable, Iterator
from contextlib import AbstractAsyncContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field

from consumers.encode_job import Job, unexpected_rejection
from contracts.errors import NotReady, RejectedRecord
from contracts.ports.encoder import RgbImage
from contracts.supervision.processes import Part

# Of a picture whose decoder died: its neighbour may have taken the memory.
_ATTEMPTS = 2
_CRASHED = "image_crashed"


Turn = Callable[[], AbstractAsyncContextManager[None]]


@dataclass(frozen=True, slots=True)
class PictureLoader:
    """Where bytes come from, and what makes pixels of them."""

    read: Callable[[str, str | None, Hashable], AbstractAsyncContextManager[bytes]]
    """Reads a reference, given its SHA-256 and the partition whose records wait for each other; the
    bytes count as in memory until it is left."""
    require_allowed: Callable[[str], Awaitable[None]]
    """Raises RejectedRecord for a reference that may not be read; asks nobody."""
    decode: Callable[[bytes], Awaitable[RgbImage]]
    part: Part = field(default_factory=lambda: Part("decode"))
    """The decoding processes; when one cannot be started, it is tried again."""

    async def load(self, job: Job, turn: Turn = nullcontext) -> None:
        """Give the job its pixels or its rejection, decoding inside `turn`.

        A bad record raises nothing. Waits while no decoder can be started.
        """
        assert job.content is not None
        with _record_rejection(job):
            if job.content.image is not None:
                job.image = await self._decoded(job, job.content.image, turn)
            else:
                assert job.content.ref is not None
                partition = (job.record.topic, job.record.partition)
                async with self.read(job.content.ref, job.content.sha256, partition) as data:
                    job.image = await self._decoded(job, data, turn)

    async def check_reference(self, job: Job) -> None:
        """Of a picture whose vector is known: give the job its rejection if it may not be read.

        Else who knows a picture's SHA-256 would have it taken under any reference at all.
        """
        assert job.content is not None and job.content.ref is not None
        with _record_rejection(job):
            await self.require_allowed(job.content.ref)

    async def _decoded(self, job: Job, data: bytes, turn: Turn) -> RgbImage:
        while True:
            try:
                async with turn():
                    image = await self.decode(data)
                    self.part.mark_running()
                    return image
            except NotReady as error:
                # There is no memory for a decoder, or somebody killed it at its start. The picture
                # waits outside of its turn, since another one may be under way.
                await self.part.wait_before_restart(str(error))
            except RejectedRecord as rejection:
                if rejection.code != _CRASHED or job.attempts == _ATTEMPTS:
                    raise
                job.attempts += 1


@contextmanager
def _record_rejection(job: Job) -> Iterator[None]:
    """What is wrong with the record goes to the job."""
    try:
        yield
    except RejectedRecord as rejection:
        job.rejection = rejection
    except NotReady:
        raise
    except Exception as error:
        job.rejection = unexpected_rejection(job.record, error)
