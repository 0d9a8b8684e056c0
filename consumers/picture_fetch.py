"""The loading of a job's picture, inline or by reference, into the pixels that a model takes."""

from collections.abc import Awaitable, Callable, Hashable, Iterator
from contextlib import AbstractAsyncContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field

from consumers.encode_job import EncodeJob, unexpected_rejection
from contracts.errors import NotReady, RejectedRecord
from contracts.ports.encoder import RgbImage
from contracts.supervision.processes import Part

# Attempts for a picture whose decoder died: the picture beside it may have taken the memory.
_ATTEMPTS = 2
_CRASHED = "image_crashed"


DecodePermit = Callable[[], AbstractAsyncContextManager[None]]


@dataclass(frozen=True, slots=True)
class PictureLoader:
    """The functions that read and decode pictures; `load` applies them to a job."""

    read: Callable[[str, str | None, Hashable], AbstractAsyncContextManager[bytes]]
    """The reader of references: it takes the reference, its SHA-256 or None, and the partition,
    whose records wait for each other. The bytes count as in memory while the context is open."""
    require_allowed: Callable[[str], Awaitable[None]]
    """The check of a reference, without any network: RejectedRecord when it may not be read."""
    decode: Callable[[bytes], Awaitable[RgbImage]]
    part: Part = field(default_factory=lambda: Part("decode"))
    """The state of the decoding processes; one that cannot be started is tried again."""

    async def load(self, job: EncodeJob, permit: DecodePermit = nullcontext) -> None:
        """Give the job its pixels or its rejection, decoding inside the context `permit()`.

        A bad record does not raise. While no decoder can be started, this waits.
        """
        assert job.content is not None
        with _record_rejection(job):
            if job.content.image is not None:
                job.image = await self._decode(job, job.content.image, permit)
            else:
                assert job.content.ref is not None
                partition = (job.record.topic, job.record.partition)
                async with self.read(job.content.ref, job.content.sha256, partition) as data:
                    job.image = await self._decode(job, data, permit)

    async def check_reference(self, job: EncodeJob) -> None:
        """Give a job whose vector is known its rejection, if its reference may not be read.

        Without this check, a producer that knows a picture's SHA-256 could publish it under any
        reference.
        """
        assert job.content is not None and job.content.ref is not None
        with _record_rejection(job):
            await self.require_allowed(job.content.ref)

    async def _decode(self, job: EncodeJob, data: bytes, permit: DecodePermit) -> RgbImage:
        while True:
            try:
                async with permit():
                    image = await self.decode(data)
                    self.part.mark_running()
                    return image
            except NotReady as error:
                # Memory for a decoder is short, or it was killed at its start. The picture gives
                # its permit back while it waits, since another one may be in a decoder.
                await self.part.wait_before_restart(str(error))
            except RejectedRecord as rejection:
                if rejection.code != _CRASHED or job.attempts == _ATTEMPTS:
                    raise
                job.attempts += 1


@contextmanager
def _record_rejection(job: EncodeJob) -> Iterator[None]:
    """Turn an error that the record causes into the rejection of the job."""
    try:
        yield
    except RejectedRecord as rejection:
        job.rejection = rejection
    except NotReady:
        raise
    except Exception as error:
        job.rejection = unexpected_rejection(job.record, error)
