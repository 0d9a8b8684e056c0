"""Retrieval scores: how often the right picture is among the first k for its text."""

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from contracts.ports.encoder import RgbImage
from contracts.score import Vectors

DEPTHS = (1, 5, 10)
CAPTIONS_PER_PHOTO = 5

Recall = Mapping[int, float]


def recall_at(texts: Vectors, images: Vectors, right: NDArray[np.intp]) -> dict[int, float]:
    """{k: share of texts whose right picture is among the k nearest}, for k of 1, 5 and 10.

    `texts` (n, d), `images` (m, d), `right` (n,): the row in `images` that belongs to each text.
    """
    scores = texts.astype(np.float32) @ images.astype(np.float32).T
    own = scores[np.arange(len(right)), right]
    better = (scores > own[:, None]).sum(axis=1)
    return {k: float((better < k).mean()) for k in DEPTHS}


def captioned_photos(folder: Path) -> tuple[list[RgbImage], list[str], NDArray[np.intp]]:
    """Photos, captions (at most five each), and each caption's photo, from `captions.json`.

    The file is a list of {"file": name in the folder, "captions": [text, ...]}.
    """
    records = json.loads((folder / "captions.json").read_bytes())
    photos = []
    for record in records:
        with Image.open(folder / record["file"]) as image:
            photos.append(np.array(ImageOps.exif_transpose(image).convert("RGB")))
    pairs = [
        (row, caption)
        for row, record in enumerate(records)
        for caption in record["captions"][:CAPTIONS_PER_PHOTO]
    ]
    return photos, [caption for _, caption in pairs], np.array([row for row, _ in pairs])
