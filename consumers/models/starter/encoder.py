"""The starter model: it is small, comes from PyPI alone, and is good enough to search photos.

STARTER_MODEL_CARD.md describes it with its scores; training/train/starter.py makes its head.
"""

from collections.abc import Sequence

import torch

from consumers.models import sanity_check
from consumers.models.spaces import STARTER, starter_space
from consumers.models.starter import weights
from consumers.models.starter.efficientnet import PREPROCESS, EfficientNetLite0
from consumers.models.starter.head import load_head
from consumers.models.starter.minilm import MiniLM
from contracts.ports.encoder import RgbImage
from contracts.score import Vectors, unit
from contracts.space import Space


class StarterEncoder:
    """The port contracts.ports.encoder.Encoder on EfficientNet-lite0, MiniLM and the trained head.

    MiniLM is unpacked once, into the user's cache folder. The constructor raises ModelMissing.
    """

    preprocess = PREPROCESS

    def __init__(self) -> None:
        self.space: Space = starter_space()
        self._text = MiniLM(weights.minilm_folder())
        self._image = EfficientNetLite0(weights.efficientnet_path())
        self._head = load_head(weights.HEAD)
        self.logit_scale = float(self._head.logit_scale)
        self._try()

    def _try(self) -> None:
        """Refuse damaged files, in 0.1 s, most of which the first batch would take anyway."""
        words = sanity_check.distinct_words(self._text.tokens, STARTER)
        sanity_check.require_different(self.encode_texts(words), "different texts", STARTER)
        pictures = [self.preprocess(picture) for picture in sanity_check.trial_pictures()]
        sanity_check.require_different(self.encode_images(pictures), "different pictures", STARTER)

    @property
    def truncated(self) -> int:
        """The number of texts that were cut so far."""
        return self._text.truncated

    @torch.inference_mode()
    def encode_texts(self, texts: Sequence[str]) -> Vectors:
        """Return unit vectors, (n, 768) float16; a text beyond 256 word pieces is cut there."""
        return unit(self._head.texts(self._text.encode(texts)).numpy())

    @torch.inference_mode()
    def encode_images(self, images: Sequence[RgbImage]) -> Vectors:
        """Return unit vectors, (n, 768) float16; `images` are (224, 224, 3) from `preprocess`."""
        features = self._image.features(images)
        return unit(self._head.images(features, self._image.class_logits(features)).numpy())
