"""The number of texts that go through a model in one pass: many, with little padding.

The texts of one pass are padded to the longest of them, and computing the padding is wasted.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, inf


@dataclass(frozen=True, slots=True)
class PassLimits:
    """The limits of one pass, in tokens.

    Lengths are rounded up to multiples of `step`. A pass has at most `tokens_max` tokens with its
    padding. Beyond `padding_max` tokens of padding, another pass costs less.
    """

    step: int
    tokens_max: float
    padding_max: float

    def padded(self, length: int) -> int:
        """Return `length` rounded up to a multiple of `step`."""
        return ceil(length / self.step) * self.step

    def first(self, lengths: Sequence[int], rows_max: int) -> int:
        """Return how many of the texts make the next pass, at least 1 and at most `rows_max`.

        `lengths` are those of all texts, in tokens, ascending.
        """
        longest = self.padded(lengths[0])
        for count, length in enumerate(map(self.padded, lengths[1 : rows_max + 1]), start=1):
            too_long = (count + 1) * length > self.tokens_max
            if count == rows_max or too_long or count * (length - longest) > self.padding_max:
                return count
            longest = length
        return len(lengths)


# On a CPU a new shape costs nothing (oneDNN). For the texts of CLIP ViT-B/32 on two cores without
# AVX-512, a pass costs as much as 30 (int8) to 45 (float32) tokens, plus 0.75 ms for each token; in
# float32 above some 700 tokens, whose layers leave the cache, a token costs 0.91 to 0.94 ms. Int8
# stays the same. The kernels of a GPU want few shapes and full batches.
PASSES = {"cpu": PassLimits(1, 640, 48), "cuda": PassLimits(8, inf, inf)}
