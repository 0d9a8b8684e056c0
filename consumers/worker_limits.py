"""The limits of an encoder worker: batches, memory, and what it decodes at once."""

from dataclasses import dataclass

from contracts.topics import Target


@dataclass(frozen=True, slots=True)
class WorkerLimits:
    """The limits of one worker.

    `pictures_max` and `captions_max` are the jobs of a batch, `ahead` the batches that a partition
    may have in flight, `ahead_bytes_max` the bytes of a lane, `wait_ms` how long a fetch waits for
    records, `known_max` the entries of the vector cache, and `decoding_max` the pictures that are
    decoded at once.
    """

    pictures_max: int
    captions_max: int
    ahead: int
    ahead_bytes_max: int
    wait_ms: int
    known_max: int
    decoding_max: int

    def batch_max(self, target: Target) -> int:
        """Return the jobs of a full batch of `target`."""
        return self.pictures_max if target == "images" else self.captions_max
