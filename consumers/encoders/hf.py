"""Any Hugging Face checkpoint with text and image features in one space: CLIP, SigLIP and kin.

Loads safetensors weights and the checkpoint's own processors from a local folder; runs no code that
comes with a checkpoint, and asks no network.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from transformers import AutoModel, AutoTokenizer

# The name in `transformers` itself insists on torchvision, which the Pillow backend does not need.
from transformers.models.auto.image_processing_auto import AutoImageProcessor
from transformers.utils import logging as transformers_logging

from consumers.encoders.processors import Normalise, halves_of
from consumers.encoders.spaces import Checkpoint, checkpoint_space
from consumers.preprocess import Unresized
from contracts.errors import ModelMissing
from contracts.ports import Preprocess, RgbImage
from contracts.score import Vectors, unit
from contracts.space import Space

_TEXTS_PER_BATCH = 64
_IMAGES_PER_BATCH = 32
_TOKENS_MAX = 512  # where neither tokenizer nor model names a limit

_SIDE_DEFAULT = 384  # where the model takes any number of patches (SigLIP 2 NaFlex)


class HuggingFaceEncoder:
    """contracts.ports.Encoder on a checkpoint's get_text_features and get_image_features.

    Raises ModelMissing for a checkpoint that has no such features or needs code of its own.
    """

    def __init__(self, checkpoint: Checkpoint) -> None:
        self.space: Space = checkpoint_space(checkpoint)
        transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
        local = {"local_files_only": True, "trust_remote_code": False}
        try:
            self._tokenizer = AutoTokenizer.from_pretrained(checkpoint.folder, **local)
            # Pillow's resampling, which is what checkpoints were trained and published with.
            self._processor = AutoImageProcessor.from_pretrained(  # type: ignore[no-untyped-call]
                checkpoint.folder, backend="pil", **local
            )
            model = AutoModel.from_pretrained(
                checkpoint.folder, use_safetensors=True, dtype=torch.float32, **local
            )
        except (OSError, ValueError, KeyError, ImportError, RuntimeError) as error:
            reason = str(error).strip().split("\n")[0]
            raise ModelMissing(f"model {checkpoint.name!r} cannot be loaded: {reason}") from error
        if not (hasattr(model, "get_text_features") and hasattr(model, "get_image_features")):
            raise ModelMissing(
                f"model {checkpoint.name!r} is a {type(model).__name__}, which has no text and "
                f"image features; give a CLIP or SigLIP-like one"
            )
        self._model = model.eval().requires_grad_(False)
        self._tokens_max = _tokens_max(self._tokenizer, model.config)
        # SigLIP was trained on texts padded to the full length, and reads the last position.
        self._padding = "max_length" if model.config.model_type.startswith("siglip") else "longest"
        self.logit_scale = _logit_scale(model)
        self.truncated = 0
        self.preprocess: Preprocess = Unresized(_image_side(self._processor, model.config))
        self._normalise: Normalise | None = None
        halves = halves_of(self._processor)
        if halves is not None:
            self.preprocess, self._normalise = halves

    @torch.inference_mode()
    def encode_texts(self, texts: Sequence[str]) -> Vectors:
        """(n, dim) float16, unit length; a text beyond the model's limit is cut there."""
        vectors = np.empty((len(texts), self.space.dim), np.float32)
        order = sorted(range(len(texts)), key=lambda row: len(texts[row]))
        for start in range(0, len(order), _TEXTS_PER_BATCH):
            rows = order[start : start + _TEXTS_PER_BATCH]
            tokens = self._tokenizer(
                [texts[row] for row in rows],
                padding=self._padding,
                truncation=True,
                max_length=self._tokens_max,
                return_tensors="pt",
            )
            self.truncated += _cut(tokens)
            vectors[rows] = _pooled(self._model.get_text_features(**tokens))
        return unit(vectors)

    @torch.inference_mode()
    def encode_images(self, images: Sequence[RgbImage]) -> Vectors:
        """(n, dim) float16, unit length."""
        vectors = np.empty((len(images), self.space.dim), np.float32)
        for start in range(0, len(images), _IMAGES_PER_BATCH):
            batch = images[start : start + _IMAGES_PER_BATCH]
            inputs = self._inputs(batch)
            vectors[start : start + len(batch)] = _pooled(self._model.get_image_features(**inputs))
        return unit(vectors)

    def _inputs(self, images: Sequence[RgbImage]) -> dict[str, Tensor]:
        if self._normalise is not None:
            return {"pixel_values": self._normalise(torch.from_numpy(np.stack(images)))}
        return dict(
            self._processor(images=[Image.fromarray(i) for i in images], return_tensors="pt")
        )


def _cut(tokens: Any) -> int:
    """How many texts lost tokens; only the fast tokenizers tell."""
    return sum(bool(encoding.overflowing) for encoding in tokens.encodings or ())


def _pooled(output: Any) -> np.ndarray[Any, np.dtype[np.float32]]:
    """transformers 5 returns an output object, whose `pooler_output` is the projected feature."""
    features = output if isinstance(output, torch.Tensor) else output.pooler_output
    numbers: np.ndarray[Any, np.dtype[np.float32]] = features.float().numpy()
    return numbers


def _tokens_max(tokenizer: Any, config: Any) -> int:
    text = getattr(config, "text_config", config)
    positions = getattr(text, "max_position_embeddings", None) or _TOKENS_MAX
    return int(min(tokenizer.model_max_length, positions))


def _logit_scale(model: Any) -> float:
    """CLIP and SigLIP store its logarithm, ALIGN its inverse; 100 is where CLIP's training ends."""
    if hasattr(model, "logit_scale"):
        return float(model.logit_scale.exp())
    if hasattr(model, "temperature"):
        return float(1 / model.temperature)
    return 100.0


def _image_side(processor: Any, config: Any) -> int:
    """The larger of what the processor scales to and what the model takes, in pixels."""
    size = getattr(processor, "size", None) or {}
    vision = getattr(config, "vision_config", config)
    named = [size.get(edge) for edge in ("shortest_edge", "height", "width")]
    sides = [int(side) for side in (*named, getattr(vision, "image_size", None)) if side]
    return max(sides, default=_SIDE_DEFAULT)
