"""The recall of retrieval: the share of texts whose right picture is among the first k."""

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
    """Return the share of texts whose right picture is among the k nearest, for k of 1, 5 and 10.

    `texts` are (n, d) and `images` (m, d) unit vectors; `right`, (n,), is the row in `images` that
    belongs to each text. A picture with an equal score does not count as nearer.
    """
    scores = texts.astype(np.float32) @ images.astype(np.float32).T
    own = scores[np.arange(len(right)), right]
    better = (scores > own[:, None]).sum(axis=1)
    return {k: float((better < k).mean()) for k in DEPTHS}


def captioned_photos(folder: Path) -> tuple[list[RgbImage], list[str], NDArray[np.intp]]:
    """Return photos, captions (at most five each), and the row of each caption's photo.

    The file `captions.json` is a list of {"file": name in the folder, "captions": [text, ...]}.
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
