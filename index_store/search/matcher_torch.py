"""The Matcher on a GPU: float16 products on its tensor cores, which only nominate.

Vectors are float16, so nothing is lost on the way in; products are summed in float32 and rounded to
float16 once. For scores up to 2 that errs by at most 2 ** -11 * 2 (half a unit in the last place of
numbers below 2), which is added to the slack of float32. torch takes seconds to import, so this
module is imported only where a GPU is.
"""

import numpy as np
import torch
from numpy.typing import NDArray

from contracts.score import NOMINATION_SLACK, Vectors

# Queries of one block: a block of 65,536 and 2,048 new rows takes 256 MB.
_BLOCK = 65_536
_SLACK = NOMINATION_SLACK + 2.0**-10


class TorchMatcher:
    """Nominates on `device`; the exact score decides elsewhere."""

    def __init__(self, device: str = "cuda") -> None:
        self._device = torch.device(device)
        # Sums in float16 would err by more than the slack.
        torch.backends.cuda.matmul.allow_fp16_reduced_precision_reduction = False

    def nominate(
        self, queries: NDArray[np.float32], floors: NDArray[np.float64], vectors: Vectors
    ) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        found, rows = [np.empty(0, np.intp)], [np.empty(0, np.intp)]
        if not len(queries) or not len(vectors):
            return found[0], rows[0]
        with torch.inference_mode():
            wide = torch.from_numpy(np.array(vectors, np.float16)).to(self._device).T
            bars = torch.from_numpy((floors - _SLACK).astype(np.float32)).to(self._device)
            for start in range(0, len(queries), _BLOCK):
                block = torch.from_numpy(queries[start : start + _BLOCK]).to(self._device).half()
                near = (block @ wide) >= bars[start : start + _BLOCK, None]
                query, row = near.nonzero(as_tuple=True)
                found.append(query.cpu().numpy() + start)
                rows.append(row.cpu().numpy())
        return np.concatenate(found), np.concatenate(rows)
