"""The starter model's head: from picture features and text vectors to one common space.

Two parts side by side. The *named* part needs no training (ConSE, Norouzi et al. 2013): a picture
is the mean of its ten likeliest ImageNet class names' text vectors, weighted by probability, and a
text is itself. The *trained* part maps both to where pictures and their names meet.
"""

from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.functional import normalize

from consumers.models.starter.efficientnet import CLASSES, FEATURES
from consumers.models.starter.minilm import DIM as TEXT_DIM

DIM = 2 * TEXT_DIM

_HIDDEN = 1024
_DROPOUT = 0.3
_LIKELIEST = 10


class Head(nn.Module):
    """Weights of the trained part, and what both parts need to know.

    `class_vectors` (1000, 384): text vectors of the class names. `mean`, `deviation` (1280,): of
    the features seen in training. `logit_scale`: what cosines are multiplied with before a softmax.
    """

    mean: Tensor
    deviation: Tensor
    class_vectors: Tensor
    logit_scale: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(FEATURES, TEXT_DIM)
        self.wide = nn.Linear(FEATURES, _HIDDEN)
        self.narrow = nn.Linear(_HIDDEN, TEXT_DIM)
        self.text = nn.Linear(TEXT_DIM, TEXT_DIM)
        self.dropout = nn.Dropout(_DROPOUT)
        self.register_buffer("mean", torch.zeros(FEATURES))
        self.register_buffer("deviation", torch.ones(FEATURES))
        self.register_buffer("class_vectors", torch.zeros(CLASSES, TEXT_DIM))
        self.register_buffer("logit_scale", torch.ones(()))

    def images(self, features: Tensor, logits: Tensor) -> Tensor:
        """Features (n, 1280) and class logits (n, 1000) to unit vectors (n, 768)."""
        parts = (self.trained_images(features), self.named_images(logits))
        return normalize(torch.cat(parts, dim=1), dim=1)

    def texts(self, vectors: Tensor) -> Tensor:
        """MiniLM's unit vectors (n, 384) to unit vectors (n, 768)."""
        return normalize(torch.cat((self.trained_texts(vectors), vectors), dim=1), dim=1)

    def named_images(self, logits: Tensor) -> Tensor:
        """The part that needs no training: (n, 384), unit length."""
        weights, classes = logits.softmax(dim=1).topk(_LIKELIEST, dim=1)
        return normalize((weights[..., None] * self.class_vectors[classes]).sum(1), dim=1)

    def trained_images(self, features: Tensor) -> Tensor:
        """The trained part: (n, 384), unit length."""
        x = (features - self.mean) / self.deviation
        wide = self.dropout(nn.functional.gelu(self.wide(x)))
        return normalize(self.linear(x) + self.narrow(wide), dim=1)

    def trained_texts(self, vectors: Tensor) -> Tensor:
        """The trained part's text side: (n, 384), unit length."""
        return normalize(self.text(vectors), dim=1)


def load_head(path: Path) -> Head:
    """The head as it was saved, in float32, for inference."""
    with torch.device("meta"):
        head = Head()
    tensors = {name: tensor.float() for name, tensor in load_file(path).items()}
    head.load_state_dict(tensors, assign=True)
    return head.eval().requires_grad_(False)


def save_head(head: Head, path: Path, metadata: dict[str, str]) -> None:
    """Write as float16 (5.5 MB). The same head gives the same bytes."""
    tensors = {name: tensor.detach().half() for name, tensor in head.state_dict().items()}
    save_file(tensors, path, metadata)
