"""How many texts go through a model at once: the most, but little padding and no more than fits.

Texts of one pass are padded to the longest of them, and what is padded is computed for nothing.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, inf


@dataclass(frozen=True, slots=True)
class PassLimits:
    """`step`: lengths are rounded up to its multiples. `tokens_max`: of one pass, padding included.
    `padding_max`: tokens, above which another pass costs less.
    """

    step: int
    tokens_max: float
    padding_max: float

    def padded(self, length: int) -> int:
        return ceil(length / self.step) * self.step

    def first(self, lengths: Sequence[int], rows_max: int) -> int:
        """How many of the texts, shortest first, make the next pass; at least one."""
        longest = self.padded(lengths[0])
        for count, length in enumerate(map(self.padded, lengths[1 : rows_max + 1]), start=1):
            too_long = (count + 1) * length > self.tokens_max
            if count == rows_max or too_long or count * (length - longest) > self.padding_max:
                return count
            longest = length
        return len(lengths)


# On a CPU a new shape costs nothing (oneDNN). Of CLIP ViT-B/32's texts on two cores without
# AVX-512, a pass takes as long as 30 (int8) to 45 (float32) tokens and .75 ms for each, but .91 to
# .94 ms above some 700 in float32, whose layers then leave the cache; int8 does not care.
# A GPU's kernels want few shapes and full batches.
PASSES = {"cpu": PassLimits(1, 640, 48), "cuda": PassLimits(8, inf, inf)}
