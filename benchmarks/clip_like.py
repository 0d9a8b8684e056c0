"""Real CLIP vectors widened to any number: rows that lie as pictures' vectors lie.

    python -m benchmarks.clip_like [--rows N] [--data FILE]

A new row is a mixture of a real picture and one of its nearest real neighbours, plus noise shaped
like the differences between neighbours (their principal components). So clusters stay clusters,
pictures stay apart from texts (the modality gap), and the intrinsic dimension stays near the real
one. Queries are the real texts, which are out of the pictures' distribution, as in use. Run as a
command it prints how the widened set compares with the real one.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from contracts.score import Vectors, unit

DATA = Path(__file__).parent.parent.parent / "shared" / "data" / "clip_vectors" / "clip_vit_b32.npz"
_NEIGHBOURS = 10
_COMPONENTS = 256
_BLOCK_ROWS = 20_000

Wide = NDArray[np.float64]


def load(path: Path = DATA) -> tuple[Wide, Wide]:
    """Return the rows of real pictures and texts, as arrays (n, dim) of unit rows."""
    with np.load(path) as data:
        names = set(data.files)
        texts = "text" if "text" in names else "texts"
        images = "image" if "image" in names else "images"
        return data[images].astype(np.float64), data[texts].astype(np.float64)


def widened(real: Wide, rows: int, seed: int = 1) -> Iterator[Vectors]:
    """Yield blocks of float16 unit rows, `rows` in all."""
    dice = np.random.default_rng(seed)
    near = np.argsort(-(real @ real.T), axis=1)[:, 1 : _NEIGHBOURS + 1]
    differences = real - real[near[:, 0]]
    _, lengths, axes = np.linalg.svd(differences, full_matrices=False)
    spread = lengths[:_COMPONENTS] / np.sqrt(len(real))
    for start in range(0, rows, _BLOCK_ROWS):
        count = min(_BLOCK_ROWS, rows - start)
        one = dice.integers(len(real), size=count)
        other = near[one, dice.integers(_NEIGHBOURS, size=count)]
        share = dice.uniform(0.0, 0.5, (count, 1))
        noise = dice.standard_normal((count, _COMPONENTS)) * spread @ axes[:_COMPONENTS]
        yield unit((1 - share) * real[one] + share * real[other] + 0.85 * noise)


def intrinsic_dimension(rows: Wide) -> float:
    """Estimate the intrinsic dimension by the distances to the two nearest neighbours.

    The method is that of Facco et al. 2017, Scientific Reports 7, 12140.
    """
    scores = rows @ rows.T
    np.fill_diagonal(scores, -1)
    best = np.sqrt(np.maximum(1e-12, 2 - 2 * np.sort(scores, axis=1)[:, -2:]))
    ratios = np.sort(best[:, 0] / best[:, 1])
    kept = ratios[: int(0.9 * len(ratios))]
    below = np.arange(1, len(kept) + 1) / len(ratios)
    x, y = np.log(kept), -np.log(1 - below)
    return float((x @ y) / (x @ x))


def _described(name: str, rows: Wide, texts: Wide) -> str:
    scores = rows @ rows.T
    np.fill_diagonal(scores, -1)
    nearest, apart = np.sort(scores, axis=1)[:, -1], (texts @ rows.T)
    return (
        f"{name:8} nearest neighbour p10/50/90 {np.percentile(nearest, [10, 50, 90]).round(3)}  "
        f"text's best {np.median(apart.max(axis=1)):.3f}  dimension {intrinsic_dimension(rows):.1f}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=2132)
    parser.add_argument("--data", type=Path, default=DATA)
    arguments = parser.parse_args()
    images, texts = load(arguments.data)
    wide = np.concatenate(list(widened(images, arguments.rows))).astype(np.float64)
    print(_described("real", images, texts))
    print(_described("widened", wide, texts))


if __name__ == "__main__":
    main()
