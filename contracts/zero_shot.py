"""Zero-shot classification: a label is what its text's vector says, and nothing is trained.

As CLIP does it (Radford et al. 2021, section 3.1): each label is put into each prompt template, the
unit vectors of a label's prompts are averaged and scaled to length one again, and the cosines to
what is classified, times the checkpoint's logit scale, go through a softmax.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from contracts.errors import RejectedRequest
from contracts.fusion import is_nothing
from contracts.score import Vectors, unit

_NOTHING = "the prompts' vectors add up to nothing"


def label_vectors(labels: Sequence[str], rows: Sequence[Vectors] | Vectors) -> NDArray[np.float64]:
    """Return the labels' unit vectors, (labels, dim).

    `rows`, (labels * templates, dim), are those of their prompts in the order of
    contracts.prompts. Raises RejectedRequest if the prompts of a label cancel out.
    """
    shape = len(labels), -1, len(rows[0])
    means = np.reshape(rows, shape).mean(axis=1, dtype=np.float64)
    for label, mean in zip(labels, means, strict=True):
        if is_nothing(mean, 1.0):
            says = f"label {label!r}: {_NOTHING}"
            raise RejectedRequest("zero_vector", says, field="labels", value=label)
    found: NDArray[np.float64] = means / np.linalg.norm(means, axis=1, keepdims=True)
    return found


def query_vector(rows: Vectors) -> Vectors:
    """Return the unit vector, (dim,), of one query's prompts, (templates, dim), as float16.

    The vector of a single prompt is not rounded again. Raises ValueError if they cancel out.
    """
    mean = rows.mean(axis=0, dtype=np.float64)
    if is_nothing(mean, 1.0):
        raise ValueError(_NOTHING)
    return rows[0] if len(rows) == 1 else unit(mean)


def probabilities(scores: Sequence[float] | NDArray[np.float64], logit_scale: float) -> list[float]:
    """Return the softmax of the scaled cosines, which adds up to one."""
    logits = logit_scale * np.asarray(scores, np.float64)
    weights = np.exp(logits - logits.max())
    found: list[float] = (weights / weights.sum()).tolist()
    return found
