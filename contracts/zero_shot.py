"""Zero-shot classification: compare a vector with the vectors of labels, without any training.

This is the method of CLIP (Radford et al. 2021, section 3.1). Each label is put into each prompt
template, and the unit vectors of a label's prompts are averaged and scaled to length one. The
probabilities are the softmax of the cosines, multiplied by the logit scale of the checkpoint.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from contracts.errors import RejectedRequest
from contracts.fusion import has_cancelled
from contracts.score import Vectors, unit

_CANCELLED = "the vectors of its prompts cancel out"


def label_vectors(labels: Sequence[str], rows: Sequence[Vectors] | Vectors) -> NDArray[np.float64]:
    """Return the unit vectors of labels, of shape (labels, dim).

    `rows` are the vectors of their prompts, of shape (labels * templates, dim), in the order of
    `fill_templates`. Raises RejectedRequest where the prompts of a label cancel out.
    """
    shape = len(labels), -1, len(rows[0])
    means = np.reshape(rows, shape).mean(axis=1, dtype=np.float64)
    for label, mean in zip(labels, means, strict=True):
        if has_cancelled(mean, 1.0):
            message = f"label {label!r}: {_CANCELLED}"
            raise RejectedRequest("zero_vector", message, field="labels", value=label)
    found: NDArray[np.float64] = means / np.linalg.norm(means, axis=1, keepdims=True)
    return found


def query_vector(rows: Vectors) -> Vectors:
    """Return the float16 unit vector (dim,) of the prompts of a query, of shape (templates, dim).

    The vector of a single prompt is returned unchanged. Raises ValueError where they cancel out.
    """
    mean = rows.mean(axis=0, dtype=np.float64)
    if has_cancelled(mean, 1.0):
        raise ValueError(_CANCELLED)
    return rows[0] if len(rows) == 1 else unit(mean)


def probabilities(scores: Sequence[float] | NDArray[np.float64], logit_scale: float) -> list[float]:
    """Return the softmax of cosines that are multiplied by `logit_scale`; the sum is one."""
    logits = logit_scale * np.asarray(scores, np.float64)
    weights = np.exp(logits - logits.max())
    found: list[float] = (weights / weights.sum()).tolist()
    return found
