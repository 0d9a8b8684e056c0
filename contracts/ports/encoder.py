"""The ports of encoders: pictures and texts to vectors."""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from contracts.score import Vectors
from contracts.space import Space

RgbImage = NDArray[np.uint8]


class Preprocess(Protocol):
    """A function from a decoded picture to the pixels that a model takes: resized and cropped.

    It runs in the process that decodes pictures, so it can be pickled and imports no torch. Pixels
    are normalised later.
    """

    @property
    def side(self) -> int:
        """The shorter side in pixels that is needed; a larger picture may be decoded smaller."""
        ...

    def __call__(self, image: RgbImage) -> RgbImage: ...


class Encoder(Protocol):
    """A model that turns texts and pictures into unit vectors of one space.

    Its methods block, and are called from one thread at a time. They take any number of inputs; the
    encoder splits them into batches.
    """

    @property
    def space(self) -> Space:
        """The space of all vectors that it returns."""
        ...

    @property
    def logit_scale(self) -> float:
        """The factor by which cosines are multiplied before a softmax, as the model was trained."""
        ...

    @property
    def preprocess(self) -> Preprocess:
        """The preprocessing of a picture before it is encoded."""
        ...

    @property
    def truncated(self) -> int:
        """The number of texts so far that were cut at the model's limit of tokens."""
        ...

    def encode_texts(self, texts: Sequence[str]) -> Vectors:
        """Return the vectors of texts: float16 of shape (n, dim), rows of length one."""
        ...

    def encode_images(self, images: Sequence[RgbImage]) -> Vectors:
        """Return the vectors of pictures: float16 of shape (n, dim), rows of length one.

        `images` are results of `preprocess`: uint8 of shape (height, width, 3).
        """
        ...


class QueryEncoder(Protocol):
    """An encoder of queries, which batches and caches, and does not block the event loop.

    Each method returns the float16 unit vector of one input, of shape (dim,).
    """

    async def query(self, text: str) -> Vectors:
        """Return the vector of a query's text, put into the templates that are set for queries."""
        ...

    async def text(self, text: str) -> Vectors:
        """Return the vector of a text as it is: a filled template, or content to classify."""
        ...

    async def image(self, data: bytes) -> Vectors:
        """Return the vector of a picture. Raises RejectedRecord if it cannot be decoded."""
        ...

    async def logit_scale(self) -> float:
        """Return the logit scale of the model, once it is loaded."""
        ...
