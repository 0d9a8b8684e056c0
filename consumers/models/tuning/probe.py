"""The choice between float32 and bfloat16 in about two seconds, on a machine without tuning."""

from time import perf_counter

import numpy as np
import structlog
import torch
from numpy.typing import NDArray

from consumers.models.huggingface.encoder import HuggingFaceEncoder, device_of
from consumers.models.precision import Precision, PrecisionChoice
from consumers.models.spaces import Checkpoint
from consumers.models.tuning import chosen_precision
from contracts.ports.encoder import RgbImage
from contracts.score import Vectors

log = structlog.get_logger(__name__)

# The least cosine of each vector with that of float32; `doctor --tune` requires it too.
COSINE_MIN = 0.999
_PICTURES = 8
_SECONDS = 0.5


def open_probed(checkpoint: Checkpoint, precision: Precision | None) -> HuggingFaceEncoder:
    """Open the encoder of a checkpoint in the precision that is named, kept or probed.

    None as `precision` takes the choice that is kept for this machine; without one, it is probed
    and kept. Raises ModelMissing.
    """
    device = device_of()
    batch = PrecisionChoice(pictures=256, texts=512) if device.type == "cuda" else PrecisionChoice()
    if precision is not None:
        return HuggingFaceEncoder(
            checkpoint, PrecisionChoice(precision, batch.pictures, batch.texts)
        )
    key = chosen_precision.key_of(checkpoint, device, torch.get_num_threads())
    kept = chosen_precision.load_choice(key)
    if kept is not None:
        return HuggingFaceEncoder(checkpoint, kept)
    exact = HuggingFaceEncoder(checkpoint, batch)
    other = HuggingFaceEncoder(checkpoint, PrecisionChoice("bfloat16", batch.pictures, batch.texts))
    best = _faster(exact, other)
    chosen_precision.save_choice(key, best.choice)
    log.info("probed", precision=best.choice.precision, device=device.type)
    return best


def _faster(exact: HuggingFaceEncoder, other: HuggingFaceEncoder) -> HuggingFaceEncoder:
    dice = np.random.default_rng(1)
    pictures = [
        exact.preprocess(dice.integers(0, 256, (64, 64, 3), dtype=np.uint8))
        for _ in range(_PICTURES)
    ]
    wanted, exact_s = _timed(exact, pictures)
    found, other_s = _timed(other, pictures)
    if other_s < exact_s and cosines(found, wanted).min() >= COSINE_MIN:
        return other
    return exact


def _timed(encoder: HuggingFaceEncoder, pictures: list[RgbImage]) -> tuple[Vectors, float]:
    """Return the vectors, and the least seconds of one batch."""
    vectors = encoder.encode_images(pictures)  # the first call also sets up
    times: list[float] = []
    while not times or sum(times) < _SECONDS:
        began = perf_counter()
        vectors = encoder.encode_images(pictures)
        times.append(perf_counter() - began)
    return vectors, min(times)


def cosines(ours: Vectors, theirs: Vectors) -> NDArray[np.float64]:
    """Return the cosine of each pair of rows, (n, dim) and (n, dim) to (n,) float64.

    Lengths are divided out, since float16 rows have unit length to three digits only.
    """
    a, b = ours.astype(np.float64), theirs.astype(np.float64)
    lengths: NDArray[np.float64] = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    products: NDArray[np.float64] = (a * b).sum(axis=1)
    return products / lengths
