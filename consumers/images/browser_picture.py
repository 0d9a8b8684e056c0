"""The conversion to JPEG of pictures that browsers do not show, such as TIFF and HEIC.

Decoding and writing happen in a decoder's process, under the limits of a picture: strangers' bytes
never meet the interpreter that answers requests.
"""

import io
from dataclasses import dataclass

import numpy as np
from PIL import Image

from consumers.images.decoder_pool import DecoderPool
from contracts.ports.encoder import RgbImage

_QUALITY = 90
_SIZE_BYTES = 4


@dataclass(frozen=True, slots=True)
class JpegPreprocess:
    """A Preprocess that makes a JPEG file whose longer side is at most `side` pixels.

    Instead of pixels it returns the length of the file in bytes, as a big-endian number of four
    bytes, and then the file, padded with zeros to (1, n, 3) uint8.
    """

    side: int

    def __call__(self, image: RgbImage) -> RgbImage:
        picture = Image.fromarray(image)
        picture.thumbnail((self.side, self.side), Image.Resampling.BICUBIC, reducing_gap=2.0)
        file = io.BytesIO()
        picture.save(file, "JPEG", quality=_QUALITY)
        data = file.getvalue()
        framed = len(data).to_bytes(_SIZE_BYTES) + data
        return np.frombuffer(framed + bytes(-len(framed) % 3), np.uint8).reshape(1, -1, 3)


class JpegConverter:
    """The PictureConverter port over decoders whose preprocess is `JpegPreprocess`."""

    def __init__(self, decoders: DecoderPool) -> None:
        self._decoders = decoders

    async def to_jpeg(self, data: bytes) -> bytes:
        """Return the picture as a JPEG file. Raises what DecoderPool.decode raises."""
        framed = (await self._decoders.decode(data)).tobytes()
        size = int.from_bytes(framed[:_SIZE_BYTES])
        return framed[_SIZE_BYTES : _SIZE_BYTES + size]
