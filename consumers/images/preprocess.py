"""The resizing and cropping of pictures to what a model takes, in the decoding processes.

The resized picture is a fraction of the decoded one, so it is made before it leaves the decoder,
whose only libraries are Pillow and numpy. The model's device then scales and normalises it.
"""

from dataclasses import dataclass
from math import ceil

import numpy as np
from PIL import Image

from contracts.ports.encoder import RgbImage

# The longest ratio of sides. A longer picture is cut at both ends: scaling the shorter side of 1 by
# 50 million pixels would take more memory than there is.
_ASPECT_MAX = 16


@dataclass(frozen=True, slots=True)
class Unresized:
    """A Preprocess for models that take any size: it only cuts strips. `side` is in pixels."""

    side: int

    def __call__(self, image: RgbImage) -> RgbImage:
        return within_aspect(image)


@dataclass(frozen=True, slots=True)
class Resized:
    """A Preprocess that resizes, then crops the centre, bit for bit as transformers do on Pillow.

    `size` is (height, width), or the length of the shorter side. `crop` is (height, width), with
    black around a smaller picture. `resample` is Pillow's number of the filter.
    """

    size: tuple[int, int] | int
    crop: tuple[int, int] | None
    resample: int

    @property
    def side(self) -> int:
        return self.size if isinstance(self.size, int) else max(self.size)

    def __call__(self, image: RgbImage) -> RgbImage:
        image = within_aspect(image)
        height, width = self._resized(*image.shape[:2])
        pixels = np.asarray(
            Image.fromarray(image).resize((width, height), Image.Resampling(self.resample))
        )
        return pixels if self.crop is None else _centre(pixels, *self.crop)

    def _resized(self, height: int, width: int) -> tuple[int, int]:
        if not isinstance(self.size, int):
            return self.size
        longer = int(self.size * max(height, width) / min(height, width))
        return (longer, self.size) if width <= height else (self.size, longer)


@dataclass(frozen=True, slots=True)
class CentralSquare:
    """A Preprocess that crops the central square and resizes it to (kept, kept, 3), bicubic.

    The square has `kept` / `side` of the shorter side, as if that had been resized to `side`.
    Cropping comes first, so that a picture of 1 by 50 million pixels costs no more than others.
    """

    side: int
    kept: int

    def __call__(self, image: RgbImage) -> RgbImage:
        height, width = image.shape[:2]
        side = min(height, width) * self.kept / self.side
        left, top = (width - side) / 2, (height - side) / 2
        resized = Image.fromarray(image).resize(
            (self.kept, self.kept),
            Image.Resampling.BICUBIC,
            box=(left, top, left + side, top + side),
        )
        return np.asarray(resized)


def within_aspect(image: RgbImage) -> RgbImage:
    """Cut the ends of a picture whose longer side is more than 16 times the shorter one."""
    height, width = image.shape[:2]
    longest = min(height, width) * _ASPECT_MAX
    if max(height, width) <= longest:
        return image
    top, left = max(0, height - longest) // 2, max(0, width - longest) // 2
    return np.ascontiguousarray(image[top : top + longest, left : left + longest])


def _centre(pixels: RgbImage, height: int, width: int) -> RgbImage:
    found_height, found_width = pixels.shape[:2]
    if found_height < height or found_width < width:
        framed = np.zeros((max(height, found_height), max(width, found_width), 3), np.uint8)
        top = ceil((framed.shape[0] - found_height) / 2)
        left = ceil((framed.shape[1] - found_width) / 2)
        framed[top : top + found_height, left : left + found_width] = pixels
        pixels = framed
    top, left = (pixels.shape[0] - height) // 2, (pixels.shape[1] - width) // 2
    return np.ascontiguousarray(pixels[top : top + height, left : left + width])
