"""The Matcher on a GPU, which nominates pairs by float16 products on its tensor cores.

The vectors are float16 already, so converting the queries loses nothing. The products are summed in
float32 and rounded to float16 once. For a score below 2, this rounding errs by at most 2^-11 (half
a unit in the last place); twice as much is added to the slack for float32. Importing torch takes
seconds, so this module is imported only on a machine with a GPU.
"""

import numpy as np
import torch
from numpy.typing import NDArray

from contracts.score import NOMINATION_SLACK, Vectors

# Queries are matched in blocks: one of 65,536 queries against 2,048 new rows takes 256 MB.
_BLOCK = 65_536
_SLACK = NOMINATION_SLACK + 2.0**-10


class TorchMatcher:
    """A Matcher that nominates pairs on `device`; the caller decides by the exact score.

    Each product takes at most `block` queries.
    """

    def __init__(self, device: str = "cuda", *, block: int = _BLOCK) -> None:
        self._block = block
        self._device = torch.device(device)
        # Sums in float16 would err by more than the slack.
        torch.backends.cuda.matmul.allow_fp16_reduced_precision_reduction = False

    def nominate(
        self, queries: NDArray[np.float32], floors: NDArray[np.float64], vectors: Vectors
    ) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        """Return the pairs that may reach their floor, as the port says."""
        found, rows = [np.empty(0, np.intp)], [np.empty(0, np.intp)]
        if not len(queries) or not len(vectors):
            return found[0], rows[0]
        size = self._block
        with torch.inference_mode():
            wide = torch.from_numpy(np.array(vectors, np.float16)).to(self._device).T
            bars = torch.from_numpy((floors - _SLACK).astype(np.float32)).to(self._device)
            for start in range(0, len(queries), size):
                block = torch.from_numpy(queries[start : start + size]).to(self._device).half()
                near = (block @ wide) >= bars[start : start + size, None]
                query, row = near.nonzero(as_tuple=True)
                found.append(query.cpu().numpy() + start)
                rows.append(row.cpu().numpy())
        return np.concatenate(found), np.concatenate(rows)
