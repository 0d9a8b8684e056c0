"""One precision of one model, timed: what a child process of tuning.py does."""

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

# At once, in rising order: the memory of one is then seen before the next one.
PICTURES: Mapping[str, Sequence[int]] = {
    "cpu": (8, 16, 32, 64, 128),
    "cuda": (32, 64, 128, 256, 512),
}
TEXTS: Mapping[str, Sequence[int]] = {"cpu": (32, 64, 128, 256), "cuda": (128, 256, 512, 1024)}

# Of one batch: no larger one is of use, for each has to end within a rebalance's patience.
_SLOW_S = 4.0
T = TypeVar("T")


def _none() -> Vectors:
    return np.empty((0, 0), np.float16)


@dataclass(frozen=True, slots=True)
class TuningSamples:
    """Pictures as decoded, and a text for each; a few hundred are enough."""

    pictures: Sequence[RgbImage]
    texts: Sequence[str]


@dataclass(frozen=True, slots=True)
class CandidateSettings:
    """What all candidates are measured on; `memory_bytes_max` is of the whole process."""

    checkpoint: Checkpoint
    threads: int
    memory_bytes_max: int
    samples: TuningSamples
    seconds: float = 1.0


@dataclass(frozen=True, slots=True)
class CandidateResult:
    """Rates are per second, by how many go at once; `trouble` is why it is not to be taken."""

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
    """With the samples' vectors, (n, dim) each."""

    measured: CandidateResult
    pictures: Vectors = field(default_factory=_none)
    texts: Vectors = field(default_factory=_none)


def measure_candidate(asked: CandidateSettings, choice: PrecisionChoice) -> CandidateVectors:
    """Encode the samples, then time batches of each size. What goes wrong is in `trouble`."""
    torch.set_num_threads(asked.threads)
    device = device_of().type
    # Compiled for one size: another one is another minute.
    pictures_at = (choice.pictures,) if choice.compiled else PICTURES[device]
    texts_at = TEXTS[device]
    row = CandidateResult(choice.precision, choice.compiled)
    try:
        encoder = HuggingFaceEncoder(
            asked.checkpoint, replace(choice, pictures=max(pictures_at), texts=max(texts_at))
        )
        seen = [encoder.preprocess(picture) for picture in asked.samples.pictures]
        vectors = (
            _by(encoder.encode_images, seen, pictures_at[0]),
            _by(encoder.encode_texts, asked.samples.texts, texts_at[0]),
        )
        pictures = dict(_rates(encoder.encode_images, seen, pictures_at, asked))
        texts = dict(_rates(encoder.encode_texts, asked.samples.texts, texts_at, asked))
    except (RuntimeError, MemoryError) as error:  # a kernel that this device lacks is one, too
        reason = str(error).strip().split("\n")[0] or type(error).__name__
        return CandidateVectors(replace(row, trouble=reason))
    row = replace(row, pictures=pictures, texts=texts, memory_bytes=_peak_bytes())
    if not (pictures and texts):
        trouble = (
            f"takes {row.memory_bytes >> 20} MiB, more than {asked.memory_bytes_max >> 20} MiB"
        )
        row = replace(row, trouble=trouble)
    return CandidateVectors(row, *vectors)


def _by(encode: Callable[[Sequence[T]], Vectors], inputs: Sequence[T], size: int) -> Vectors:
    return np.concatenate(
        [encode(inputs[at : at + size]) for at in range(0, len(inputs), size)], dtype=np.float16
    )


def _rates(
    encode: Callable[[Sequence[T]], Vectors],
    inputs: Sequence[T],
    sizes: Sequence[int],
    asked: CandidateSettings,
) -> Iterator[tuple[int, float]]:
    """The best of several runs of each size, up to the one that takes too much memory or time."""
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
    """What this process took at most: of the GPU's memory where there is one, else of the host's.

    Not getrusage's, which goes on over exec and is then the parent's.
    """
    if torch.cuda.is_available():
        return int(torch.cuda.max_memory_reserved())
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return 0
