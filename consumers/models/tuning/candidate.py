"""The measurement of one precision of a model, in a child process of tuner.py."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import cycle, islice
from pathlib import Path
from time import perf_counter
from typing import TypeVar

import numpy as np
import torch

from consumers.models.huggingface.encoder import HuggingFaceEncoder, device_of
from consumers.models.precision import Precision, PrecisionChoice
from consumers.models.spaces import Checkpoint
from contracts.ports.encoder import RgbImage
from contracts.score import Vectors

# Batch sizes in rising order, so that the memory of one is known before the next is tried.
PICTURES: Mapping[str, Sequence[int]] = {
    "cpu": (8, 16, 32, 64, 128),
    "cuda": (32, 64, 128, 256, 512),
}
TEXTS: Mapping[str, Sequence[int]] = {"cpu": (32, 64, 128, 256), "cuda": (128, 256, 512, 1024)}

# Batches larger than one that takes this long are of no use: each has to end within the time that a
# rebalance of the consumer group waits.
_SLOW_S = 4.0
T = TypeVar("T")


def _no_vectors() -> Vectors:
    return np.empty((0, 0), np.float16)


@dataclass(frozen=True, slots=True)
class TuningSamples:
    """Decoded pictures, and a text for each of them. A few hundred are enough."""

    pictures: Sequence[RgbImage]
    texts: Sequence[str]


@dataclass(frozen=True, slots=True)
class CandidateSettings:
    """The settings that all candidates share.

    `memory_bytes_max` limits the whole process, and each batch size is timed for `seconds`.
    """

    checkpoint: Checkpoint
    threads: int
    memory_bytes_max: int
    samples: TuningSamples
    seconds: float = 1.0


@dataclass(frozen=True, slots=True)
class CandidateResult:
    """The row of a candidate in the table.

    `pictures` and `texts` are rates per second by batch size. `cosine_min` and `agreement` compare
    its vectors with those of float32. `trouble` says why it must not be chosen, if so.
    """

    precision: Precision
    compiled: bool
    pictures: Mapping[int, float] = field(default_factory=dict)
    texts: Mapping[int, float] = field(default_factory=dict)
    memory_bytes: int = 0
    cosine_min: float | None = None
    agreement: float | None = None
    trouble: str | None = None


@dataclass(frozen=True, slots=True)
class CandidateVectors:
    """A candidate's row with the vectors of the samples, (n, dim) float16 each."""

    measured: CandidateResult
    pictures: Vectors = field(default_factory=_no_vectors)
    texts: Vectors = field(default_factory=_no_vectors)


def measure_candidate(asked: CandidateSettings, choice: PrecisionChoice) -> CandidateVectors:
    """Encode the samples, then time batches of each size. A failure is put into `trouble`."""
    torch.set_num_threads(asked.threads)
    device = device_of().type
    # It is compiled for one size, since each takes a minute.
    pictures_at = (choice.pictures,) if choice.compiled else PICTURES[device]
    texts_at = TEXTS[device]
    row = CandidateResult(choice.precision, choice.compiled)
    try:
        encoder = HuggingFaceEncoder(
            asked.checkpoint, replace(choice, pictures=max(pictures_at), texts=max(texts_at))
        )
        seen = [encoder.preprocess(picture) for picture in asked.samples.pictures]
        vectors = (
            _encode_by(encoder.encode_images, seen, pictures_at[0]),
            _encode_by(encoder.encode_texts, asked.samples.texts, texts_at[0]),
        )
        pictures = dict(_rates(encoder.encode_images, seen, pictures_at, asked))
        texts = dict(_rates(encoder.encode_texts, asked.samples.texts, texts_at, asked))
    except (RuntimeError, MemoryError) as error:  # such as a kernel that this device lacks
        reason = str(error).strip().split("\n")[0] or type(error).__name__
        return CandidateVectors(replace(row, trouble=reason))
    row = replace(row, pictures=pictures, texts=texts, memory_bytes=_peak_bytes())
    if not (pictures and texts):
        trouble = (
            f"takes {row.memory_bytes >> 20} MiB, more than {asked.memory_bytes_max >> 20} MiB"
        )
        row = replace(row, trouble=trouble)
    return CandidateVectors(row, *vectors)


def _encode_by(encode: Callable[[Sequence[T]], Vectors], inputs: Sequence[T], size: int) -> Vectors:
    return np.concatenate(
        [encode(inputs[at : at + size]) for at in range(0, len(inputs), size)], dtype=np.float16
    )


def _rates(
    encode: Callable[[Sequence[T]], Vectors],
    inputs: Sequence[T],
    sizes: Sequence[int],
    asked: CandidateSettings,
) -> Iterator[tuple[int, float]]:
    """Yield the best rate of each batch size, up to one that takes too much memory or time."""
    for size in sizes:
        batch = list(islice(cycle(inputs), size))
        encode(batch)  # the first call also sets up
        if _peak_bytes() > asked.memory_bytes_max:
            return
        times: list[float] = []
        while sum(times) < asked.seconds:
            began = perf_counter()
            encode(batch)
            times.append(perf_counter() - began)
        yield size, size / min(times)
        if times[0] > _SLOW_S:
            return


def _peak_bytes() -> int:
    """Return the peak memory of this process: that of the GPU if there is one, or of the host.

    The number of getrusage is not used: it survives exec, so it may be the parent's.
    """
    if torch.cuda.is_available():
        return int(torch.cuda.max_memory_reserved())
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return 0
