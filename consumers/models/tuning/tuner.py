"""The search for the best precision and batch sizes on this machine (`tidelens doctor --tune`).

Every candidate is timed, and its vectors are compared with those of float32. It runs in a process
of its own: if that is killed for its memory, or by a kernel that crashes, only its row is lost.
"""

import multiprocessing
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace

import numpy as np
import torch

from consumers.models.huggingface.encoder import device_of
from consumers.models.precision import PRECISIONS, PrecisionChoice
from consumers.models.spaces import Checkpoint
from consumers.models.tuning import chosen_precision
from consumers.models.tuning.candidate import (
    CandidateResult,
    CandidateSettings,
    CandidateVectors,
    TuningSamples,
    measure_candidate,
)
from consumers.models.tuning.probe import COSINE_MIN, cosines
from contracts.score import Vectors
from contracts.supervision.children import die_with_parent

# The share of the ten nearest items that a candidate must keep.
AGREEMENT_MIN = 0.99
NEAREST = 10
# Two scores that are closer than this are a draw: either order is right.
DRAW = 2e-3

# A smaller batch with this share of the best rate is preferred: it answers sooner.
_GOOD_ENOUGH = 0.97
# torch.compile costs a minute at each start, so it has to gain more than the noise.
COMPILE_GAIN = 1.1

Report = Callable[[CandidateResult], None]


@dataclass(frozen=True, slots=True)
class TuningResult:
    """The table, and the best choice in it, or None if not even float32 fits into the memory."""

    table: Sequence[CandidateResult]
    best: PrecisionChoice | None


def tune(
    checkpoint: Checkpoint,
    threads: int,
    samples: TuningSamples,
    memory_bytes_max: int,
    report: Report = lambda _: None,
    *,
    seconds: float = 1.0,
) -> TuningResult:
    """Measure the device's precisions, and torch.compile on the best if there is a g++.

    `report` is called after each measurement, and int8 is measured on a CPU only.

    Each batch size is timed for `seconds`. A precision takes half a minute on two cores, and
    float16 two minutes on a processor without it (ViT-B/32). Nothing else should compute meanwhile.
    The best choice is kept for the next start (chosen_precision.py).
    """
    device = device_of()
    asked = CandidateSettings(checkpoint, threads, memory_bytes_max, samples, seconds)
    table: list[CandidateResult] = []
    exact: CandidateVectors | None = None

    def run(choice: PrecisionChoice) -> CandidateVectors:
        found = in_process(asked, choice)
        table.append(found.measured if exact is None else compare_with_exact(exact, found))
        report(table[-1])
        return found

    for precision in PRECISIONS:
        # Only a CPU has kernels for int8.
        if device.type == "cpu" or precision != "int8":
            found = run(PrecisionChoice(precision))
            exact = exact or found
    best = choose_fastest(table)
    if best is not None and shutil.which("g++"):
        run(replace(best, compiled=True))
        best = choose_fastest(table)
    if best is not None:
        chosen_precision.save_choice(chosen_precision.key_of(checkpoint, device, threads), best)
    return TuningResult(table, best)


def memory_bytes_default(host_free_bytes: int) -> int:
    """Return half of the free memory: that of the GPU if there is one, or of the host."""
    if device_of().type == "cuda":
        return int(torch.cuda.mem_get_info()[0]) // 2
    return host_free_bytes // 2


def in_process(asked: CandidateSettings, choice: PrecisionChoice) -> CandidateVectors:
    """Measure a candidate in a spawned process, since torch's threads do not survive a fork."""
    context = multiprocessing.get_context("spawn")
    parent = (os.getpid(),)
    with ProcessPoolExecutor(1, context, die_with_parent, parent) as pool:
        try:
            return pool.submit(measure_candidate, asked, choice).result()
        except BrokenProcessPool:
            row = CandidateResult(
                choice.precision, choice.compiled, trouble="its process was killed"
            )
            return CandidateVectors(row)


def choose_fastest(table: Sequence[CandidateResult]) -> PrecisionChoice | None:
    """Return the choice with the most pictures per second among the rows without trouble."""
    passed = [row for row in table if row.trouble is None]
    if not passed:
        return None

    def worth(row: CandidateResult) -> float:
        return max(row.pictures.values()) / (COMPILE_GAIN if row.compiled else 1)

    best = max(passed, key=worth)
    return PrecisionChoice(
        best.precision, _smallest_good(best.pictures), _smallest_good(best.texts), best.compiled
    )


def compare_with_exact(exact: CandidateVectors, found: CandidateVectors) -> CandidateResult:
    """Return the row of `found` with its agreement with the exact vectors, and with its trouble."""
    row = found.measured
    if row.trouble is not None:
        return row
    # A float32 that takes too much memory is compared with all the same.
    if not (len(exact.pictures) and len(exact.texts)):
        why = f"nothing to compare with: float32 failed ({exact.measured.trouble})"
        return replace(row, trouble=why)
    cosine = min(
        float(cosines(ours, theirs).min())
        for ours, theirs in ((found.pictures, exact.pictures), (found.texts, exact.texts))
    )
    agreed = min(
        agreement(found.texts, exact.texts, found.pictures, exact.pictures),
        agreement(found.pictures, exact.pictures, found.pictures, exact.pictures),
    )
    trouble = None
    if cosine < COSINE_MIN:
        trouble = f"cosine {cosine:.4f} below {COSINE_MIN}"
    elif agreed < AGREEMENT_MIN:
        trouble = f"top-{NEAREST} agreement {agreed:.3f} below {AGREEMENT_MIN}"
    return replace(row, cosine_min=cosine, agreement=agreed, trouble=trouble)


def agreement(ours: Vectors, exact: Vectors, corpus: Vectors, exact_corpus: Vectors) -> float:
    """Return the share of each row's ten nearest in `corpus` that is right, from 0 to 1.

    An item among the ten is wrong if its exact score is more than DRAW below the exact tenth best
    score. One that is left out is wrong if it is more than DRAW above. All are (n, dim) unit
    vectors.
    """
    kept = min(NEAREST, len(corpus))
    scores = exact.astype(np.float32) @ exact_corpus.astype(np.float32).T
    limit = np.sort(scores, axis=1)[:, -kept, None]
    order = np.argsort(-(ours.astype(np.float32) @ corpus.astype(np.float32).T), axis=1)
    taken = np.zeros(scores.shape, np.bool_)
    np.put_along_axis(taken, order[:, :kept], True, axis=1)
    strangers = (taken & (scores < limit - DRAW)).sum(axis=1)
    missing = (~taken & (scores > limit + DRAW)).sum(axis=1)
    return float(1 - (np.maximum(strangers, missing) / kept).mean())


def _smallest_good(rates: Mapping[int, float]) -> int:
    best = max(rates.values())
    return min(size for size, rate in rates.items() if rate >= _GOOD_ENOUGH * best)
