"""Zero-shot classification: a label is what its text's vector says, and nothing is trained.

As CLIP does it (Radford et al. 2021, section 3.1): each label is put into each prompt template, the
unit vectors of a label's prompts are averaged and scaled to length one again, and the cosines to
what is classified, times the checkpoint's logit scale, go through a softmax.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from contracts.score import Vectors, unit


def label_vector(rows: Sequence[Vectors] | Vectors) -> NDArray[np.float64]:
    """Of the vectors of one label's prompts. Raises ValueError where they cancel each other out."""
    total = np.mean([row.astype(np.float64) for row in rows], axis=0)
    length = float(np.linalg.norm(total))
    if not length:
        raise ValueError("the prompts' vectors add up to nothing")
    found: NDArray[np.float64] = total / length
    return found


def query_vector(rows: Vectors) -> Vectors:
    """The same of one query's prompts; a single one's is not rounded again. Raises ValueError."""
    return rows[0] if len(rows) == 1 else unit(label_vector(rows))


def probabilities(scores: Sequence[float] | NDArray[np.float64], logit_scale: float) -> list[float]:
    """The softmax of the scaled cosines: adds up to one."""
    logits = logit_scale * np.asarray(scores, np.float64)
    weights = np.exp(logits - logits.max())
    found: list[float] = (weights / weights.sum()).tolist()
    return found
