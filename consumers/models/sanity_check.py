"""The check, before a model is used, that it distinguishes words and pictures.

A tokenizer without its files still answers, with the same tokens for every word; weights that were
never written are zeros, which turn everything into one vector. Neither raises an error. Random
weights pass: only vectors that are equal to the bit are refused.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from contracts.errors import ModelMissing
from contracts.ports.encoder import RgbImage

# Words of one length, so that a tokenizer that only counts letters is caught too. They are in
# several languages, since a model may know only one.
_WORDS = (
    ("cat", "red", "sky", "men", "sun", "two"),
    ("猫", "红", "天", "人", "鸟", "水"),
    ("кот", "дом", "мир", "сад", "лес", "год"),
    ("ねこ", "いぬ", "そら", "うみ", "やま", "はな"),
)
_SIDE = 32


def distinct_words(
    tokens_of: Callable[[list[str]], Sequence[Sequence[int]]], model: str
) -> list[str]:
    """Return two words with different tokens. Raises ModelMissing if there are none."""
    for words in _WORDS:
        rows = [list(row) for row in tokens_of(list(words))]
        for word, row in zip(words, rows, strict=True):
            if row != rows[0]:
                return [words[0], word]
    shown = ", ".join(repr(words[0]) for words in _WORDS)
    raise ModelMissing(
        f"model {model!r}: its tokenizer gives different words the same tokens (like {shown} and "
        f"others of their lengths); its vocabulary is missing or cut off, fetch its files again"
    )


def trial_pictures() -> list[RgbImage]:
    """Return a black picture, and a picture of noise that is the same at every start."""
    noise = np.random.default_rng(1).integers(0, 256, (_SIDE, _SIDE, 3), dtype=np.uint8)
    return [np.zeros((_SIDE, _SIDE, 3), np.uint8), noise]


def require_different(vectors: NDArray[Any], what: str, model: str) -> None:
    """Raise ModelMissing for rows that are equal to the bit, or that hold NaN or infinity.

    `vectors`, (n, dim), come from different inputs, which `what` names.
    """
    if not np.isfinite(vectors).all():
        raise ModelMissing(
            f"model {model!r}: its vectors of {what} hold NaN or infinity; its weights are damaged "
            f"or do not suit the precision, fetch them again"
        )
    if len({row.tobytes() for row in vectors}) < len(vectors):
        raise ModelMissing(
            f"model {model!r}: its vectors of {what} are equal to the bit; its weights are damaged "
            f"or were written in part, fetch them again"
        )
