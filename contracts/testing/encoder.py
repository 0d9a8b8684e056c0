"""An encoder without a model, for tests and trials."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from contracts.ports.encoder import RgbImage
from contracts.score import Vectors, unit
from contracts.space import Space


@dataclass(frozen=True, slots=True)
class AnySizePreprocess:
    """The preprocessing of an encoder that takes pixels of any size, unchanged."""

    side: int = 32

    def __call__(self, image: RgbImage) -> RgbImage:
        return image


class HashEncoder:
    """An encoder whose vectors are sums of directions, one for each word or colour.

    It is deterministic. Texts that share words are near each other, and so are pictures of the same
    mean colour.
    """

    logit_scale = 100.0
    truncated = 0

    def __init__(self, dim: int = 64, name: str = "hash-v1") -> None:
        self.space = Space(name, "hash", "1", "words", dim)
        self.preprocess = AnySizePreprocess()

    def encode_texts(self, texts: Sequence[str]) -> Vectors:
        rows = [self._sum(text.lower().split() or [""]) for text in texts]
        return unit(np.stack(rows)) if rows else self._no_rows()

    def encode_images(self, images: Sequence[RgbImage]) -> Vectors:
        rows = [self._sum([repr([int(c) // 32 for c in im.mean(axis=(0, 1))])]) for im in images]
        return unit(np.stack(rows)) if rows else self._no_rows()

    def _sum(self, words: Sequence[str]) -> "np.ndarray[tuple[int], np.dtype[np.float64]]":
        total = np.zeros(self.space.dim)
        for word in words:
            seed = int.from_bytes(hashlib.blake2b(word.encode(), digest_size=8).digest())
            total += np.random.default_rng(seed).standard_normal(self.space.dim)
        return total

    def _no_rows(self) -> Vectors:
        return np.empty((0, self.space.dim), np.float16)
