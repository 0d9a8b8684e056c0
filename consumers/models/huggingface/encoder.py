"""The encoder of a Hugging Face checkpoint with text and image features, such as CLIP and SigLIP.

Its vectors are those of transformers' own pipeline; tests compare them, family by family.
checkpoint.py loads the files.
"""

from collections.abc import Sequence
from math import ceil
from typing import Any

import numpy as np
import structlog
import torch
from PIL import Image
from torch import Tensor

from consumers.images.preprocess import Unresized
from consumers.models import sanity_check
from consumers.models.batching import PASSES
from consumers.models.huggingface.checkpoint import load_checkpoint
from consumers.models.huggingface.image_processor import Normalise, split_processor
from consumers.models.precision import PrecisionChoice, convert_model
from consumers.models.spaces import Checkpoint, checkpoint_space
from contracts.errors import ModelMissing
from contracts.ports.encoder import Preprocess, RgbImage
from contracts.score import Vectors, unit
from contracts.space import Space

log = structlog.get_logger(__name__)

_TOKENS_MAX = 512  # if neither tokenizer nor model names a limit

_SIDE_DEFAULT = 384  # if neither processor nor model names a size

_EXACT = PrecisionChoice()


class HuggingFaceEncoder:
    """The port contracts.ports.encoder.Encoder on a checkpoint's text and image features.

    It runs on a GPU if there is one. The constructor raises ModelMissing for a checkpoint without
    such features, or with code of its own that `checkpoint.remote_code` does not allow.
    """

    def __init__(self, checkpoint: Checkpoint, choice: PrecisionChoice = _EXACT) -> None:
        self.choice = choice
        self.space: Space = checkpoint_space(checkpoint)
        self._tokenizer, self._processor, model = load_checkpoint(checkpoint)
        if not (hasattr(model, "get_text_features") and hasattr(model, "get_image_features")):
            raise ModelMissing(
                f"model {checkpoint.name!r} is a {type(model).__name__}, which has no text and "
                f"image features; give a CLIP or SigLIP-like one"
            )
        model = model.eval().requires_grad_(False)
        self._device = device_of()
        self._passes = PASSES[self._device.type]
        self._tokens_max = _tokens_max(self._tokenizer, model)
        # SigLIP was trained on texts padded to the full length, and reads the last position. A
        # model without a mask must not see padding of any other length either.
        siglip = model.config.model_type.startswith("siglip")
        masked = "attention_mask" in self._tokenizer.model_input_names
        self._pads_to_longest = masked and not siglip
        self.logit_scale = _logit_scale(model)
        self.truncated = 0
        self.preprocess, self._normalise = self._preprocessing(checkpoint.name, model.config)
        self._model = convert_model(model, choice, self._device)
        # They shrink when memory runs out, and do not grow again.
        self._pictures_max, self._texts_max = choice.pictures, choice.texts
        self._compiled = _compiled(self._model, self._device) if choice.compiled else None
        self._try(checkpoint.name)
        if self._compiled is not None:
            # It compiles in the first full batch, which should not be one of records.
            blank = self.preprocess(np.zeros((64, 64, 3), np.uint8))
            self.encode_images([blank] * choice.pictures)

    @torch.inference_mode()
    def encode_texts(self, texts: Sequence[str]) -> Vectors:
        """Return unit vectors, (n, dim) float16; a text beyond the model's limit is cut there."""
        if not texts:  # tokenizers refuse an empty list
            return self._vectors(0, [])
        tokens = self._tokens(texts)
        order, lengths = self._by_length(tokens)
        found: list[tuple[list[int], Tensor]] = []
        while order:
            rows = order[: self._passes.first(lengths, self._texts_max)]
            try:
                inputs = self._pad(tokens, rows)
                found.append((rows, _features(self._model.get_text_features(**inputs))))
            except RuntimeError as error:
                self._texts_max = _halve_batch(len(rows), error, "texts")
                continue
            del order[: len(rows)], lengths[: len(rows)]
        self.truncated += self._count_cut(tokens, texts)
        return self._vectors(len(texts), found)

    @torch.inference_mode()
    def encode_images(self, images: Sequence[RgbImage]) -> Vectors:
        """Return unit vectors, (n, dim) float16, of pictures as `preprocess` made them."""
        found: list[tuple[list[int], Tensor]] = []
        done = 0
        while done < len(images):
            rows = list(range(done, min(done + self._pictures_max, len(images))))
            try:
                inputs = self._inputs([images[row] for row in rows])
                found.append((rows, _features(self._image_features(len(rows), inputs))))
            except RuntimeError as error:
                self._pictures_max = _halve_batch(len(rows), error, "pictures")
                continue
            done += len(rows)
        return self._vectors(len(images), found)

    def _image_features(self, rows: int, inputs: dict[str, Tensor]) -> Any:
        # It is compiled for full batches only: each other size would take a minute.
        if self._compiled is not None and rows == self.choice.pictures:
            return self._compiled(**inputs)
        return self._model.get_image_features(**inputs)

    def _tokens(self, texts: Sequence[str]) -> Any:
        return self._tokenizer(list(texts), truncation=True, max_length=self._tokens_max)

    def _by_length(self, tokens: Any) -> tuple[list[int], list[int]]:
        """Return the rows, shortest first, and the length of each in tokens."""
        lengths = [self._length(ids) for ids in tokens["input_ids"]]
        order = sorted(range(len(lengths)), key=lambda row: lengths[row])
        return order, [lengths[row] for row in order]

    def _length(self, ids: Sequence[int]) -> int:
        """Return the least length, in tokens, that a text is padded to."""
        return len(ids) if self._pads_to_longest else self._tokens_max

    def _pad(self, tokens: Any, rows: Sequence[int]) -> Any:
        """Return rows as tensors, all padded to the length of the longest one, rounded up."""
        longest = max(self._length(tokens["input_ids"][row]) for row in rows)
        length = min(self._tokens_max, self._passes.padded(longest))
        return self._tokenizer.pad(
            {name: [column[row] for row in rows] for name, column in tokens.items()},
            padding="max_length",
            max_length=length,
            return_tensors="pt",
        ).to(self._device)

    def _count_cut(self, tokens: Any, texts: Sequence[str]) -> int:
        """Return the number of texts that were cut; tokenizers in Python must run again for it."""
        if tokens.is_fast:
            return sum(bool(encoding.overflowing) for encoding in tokens.encodings)
        whole = self._tokenizer(texts)["input_ids"]
        return sum(len(ids) > self._tokens_max for ids in whole)

    def _preprocessing(self, name: str, config: Any) -> tuple[Preprocess, Normalise | None]:
        """Return the two halves of the processor.

        One that cannot be split runs whole for each batch: its second half is None.
        """
        try:
            halves = split_processor(self._processor)
            if halves is None:
                return Unresized(_image_side(self._processor, config)), None
            preprocess, normalise = halves
            return preprocess, normalise.on(self._device)
        except (TypeError, ValueError, KeyError, AttributeError) as error:
            raise ModelMissing(
                f"model {name!r}: its image processor's settings do not fit together "
                f"({_reason(error)}); fetch preprocessor_config.json again"
            ) from error

    @torch.inference_mode()
    def _try(self, name: str) -> None:
        """Encode two texts of full length and two pictures.

        Raises ModelMissing for a model that fails, or that maps different inputs to one vector.
        """
        try:
            words = sanity_check.distinct_words(
                lambda words: self._tokens(words)["input_ids"], name
            )
            tokens = self._tokens(
                [f"{word} " * min(self._tokens_max, _TOKENS_MAX) for word in words]
            )
            pictures = [self.preprocess(picture) for picture in sanity_check.trial_pictures()]
            outputs = (
                self._model.get_text_features(**self._pad(tokens, [0, 1])),
                self._model.get_image_features(**self._inputs(pictures)),
            )
            texts, images = (_features(output).cpu().numpy() for output in outputs)
        except ModelMissing:
            raise
        except Exception as error:  # a model for other inputs may raise anything
            raise ModelMissing(f"model {name!r} does not encode: {_reason(error)}") from error
        shapes = [(1, *features.shape[1:]) for features in (texts, images)]
        if shapes != [(1, self.space.dim)] * 2:
            raise ModelMissing(
                f"model {name!r} makes {shapes[0]} of a text and {shapes[1]} of a picture, where "
                f"vectors of {self.space.dim} are needed; give a CLIP or SigLIP-like one"
            )
        sanity_check.require_different(texts, "different texts", name)
        sanity_check.require_different(images, "different pictures", name)

    def _inputs(self, images: Sequence[RgbImage]) -> dict[str, Tensor]:
        if self._normalise is not None:
            pixels = torch.from_numpy(np.stack(images))
            if self._device.type == "cuda":
                # Bytes are a quarter of float32. Pinned memory is copied while the device computes.
                pixels = pixels.pin_memory().to(self._device, non_blocking=True)
            return {"pixel_values": self._normalise(pixels).to(self.choice.dtype)}
        inputs = self._processor(images=[Image.fromarray(i) for i in images], return_tensors="pt")
        return {
            name: value.to(self._device, self.choice.dtype if value.is_floating_point() else None)
            for name, value in inputs.items()
        }

    def _vectors(self, count: int, found: Sequence[tuple[list[int], Tensor]]) -> Vectors:
        """Return unit vectors in the order of the inputs.

        Features are fetched from the device only here, when all its work has been started.
        """
        rows = np.empty((count, self.space.dim), np.float32)
        for positions, features in found:
            rows[positions] = features.cpu().numpy()
        return unit(rows)


def _reason(error: Exception) -> str:
    return str(error).strip().split("\n")[0] or type(error).__name__


def device_of() -> torch.device:
    """Return the device that models run on: a GPU if there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def _compiled(model: Any, device: torch.device) -> Any:
    """Return get_image_features compiled for one shape; on a CPU, weights are folded in.

    CUDA graphs are not used: a replay overwrites the previous output, which is fetched at the end.
    """
    if device.type == "cuda":
        mode = "max-autotune-no-cudagraphs"
        return torch.compile(model.get_image_features, dynamic=False, mode=mode)
    return torch.compile(model.get_image_features, dynamic=False, options={"freezing": True})


def _halve_batch(rows: int, error: RuntimeError, what: str) -> int:
    """Return half of `rows` if memory ran out; raise any other error again."""
    short = isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)
    if not short or rows == 1:
        raise error
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    log.warning("out of memory: smaller batches from now on", kind=what, batch=rows // 2)
    return rows // 2


def _features(output: Any) -> Tensor:
    """Return the projected features in float32.

    Since version 5, transformers returns them as `pooler_output` of an object.
    """
    features: Tensor = output if isinstance(output, Tensor) else output.pooler_output
    return features.float()


def _tokens_max(tokenizer: Any, model: Any) -> int:
    text = getattr(model.config, "text_config", model.config)
    positions = getattr(text, "max_position_embeddings", None) or _TOKENS_MAX
    # RoBERTa and similar models count positions after that of padding.
    for name, module in model.named_modules():
        if (
            name.endswith("position_embeddings")
            and getattr(module, "padding_idx", None) is not None
        ):
            positions = min(positions, module.num_embeddings - module.padding_idx - 1)
    return int(min(tokenizer.model_max_length, positions))


def _logit_scale(model: Any) -> float:
    """Return the factor of cosines before a softmax.

    CLIP and SigLIP store its logarithm, ALIGN its inverse. CLIP's training ends at the default.
    """
    if hasattr(model, "logit_scale"):
        return float(model.logit_scale.exp())
    if hasattr(model, "temperature"):
        return float(1 / model.temperature)
    return 100.0


def _image_side(processor: Any, config: Any) -> int:
    """Return the larger of the processor's and the model's sides, in pixels."""
    size = getattr(processor, "size", None) or {}
    vision = getattr(config, "vision_config", config)
    named = [size.get(edge) for edge in ("shortest_edge", "height", "width")]
    sides = [int(side) for side in (*named, getattr(vision, "image_size", None)) if side]
    patches = getattr(processor, "max_num_patches", None)
    if patches:  # SigLIP 2 NaFlex: the side of a square of them
        sides.append(ceil(patches**0.5 * processor.patch_size))
    return max(sides, default=_SIDE_DEFAULT)
