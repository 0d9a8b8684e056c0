"""The split of an image processor of transformers into two halves, if that changes no result.

Most processors only resize, crop, scale and normalise. The first two are done to each picture in
its decoder (consumers/images/preprocess.py), the others to the whole batch on the model's device.
"""

from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from transformers.image_processing_backends import PilBackend

from consumers.images.preprocess import Resized


@dataclass(frozen=True, slots=True)
class Normalise:
    """The second half: it maps (n, height, width, 3) uint8 to (n, 3, height, width) float32."""

    scale: float
    mean: Tensor
    deviation: Tensor

    def on(self, device: torch.device) -> "Normalise":
        """Return the same with its tensors on `device`."""
        return Normalise(self.scale, self.mean.to(device), self.deviation.to(device))

    def __call__(self, pixels: Tensor) -> Tensor:
        # The shape has channels first; memory keeps them last, which convolutions prefer.
        return ((pixels.float() * self.scale - self.mean) / self.deviation).permute(0, 3, 1, 2)


def split_processor(processor: Any) -> tuple[Resized, Normalise] | None:
    """Return the two halves of a processor, for one picture and for a batch.

    The result is None if it does more than resize, crop, scale and normalise.
    """
    methods = ("_preprocess", "preprocess", "resize", "center_crop", "rescale", "normalize")
    own, plain = type(processor), PilBackend
    if not issubclass(own, plain) or any(getattr(own, m) is not getattr(plain, m) for m in methods):
        return None
    size = {name: value for name, value in dict(processor.size or {}).items() if value}
    if not (processor.do_resize and processor.do_rescale) or getattr(processor, "do_pad", False):
        return None
    if set(size) == {"height", "width"}:
        wanted: tuple[int, int] | int = (int(size["height"]), int(size["width"]))
    elif set(size) == {"shortest_edge"} and getattr(processor, "do_center_crop", False):
        wanted = int(size["shortest_edge"])
    else:
        return None
    crop = None
    if getattr(processor, "do_center_crop", False):
        named = dict(processor.crop_size)
        crop = (int(named["height"]), int(named["width"]))
    mean, deviation = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    if processor.do_normalize:
        mean, deviation = processor.image_mean, processor.image_std
    resample = Image.Resampling.BILINEAR if processor.resample is None else processor.resample
    return (
        Resized(wanted, crop, int(resample)),
        Normalise(processor.rescale_factor, torch.tensor(mean), torch.tensor(deviation)),
    )
