"""The starter model's head: it maps picture features and text vectors to one common space.

A vector has two parts. The *named* part needs no training (ConSE, Norouzi et al. 2013): that of a
picture is the mean of the text vectors of its ten likeliest ImageNet class names, weighted by
probability, and that of a text is its own vector. The *trained* part maps a picture and its name
close to each other.
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
    """The weights of the trained part, and the constants of both parts.

    `class_vectors`, (1000, 384), are the text vectors of the class names. `mean` and `deviation`,
    (1280,), are those of the features in training. `logit_scale` is the factor of cosines before a
    softmax.
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
        """Return unit vectors, (n, 768), of features, (n, 1280), and class logits, (n, 1000)."""
        parts = (self.trained_images(features), self.named_images(logits))
        return normalize(torch.cat(parts, dim=1), dim=1)

    def texts(self, vectors: Tensor) -> Tensor:
        """Return unit vectors, (n, 768), of MiniLM's unit vectors, (n, 384)."""
        return normalize(torch.cat((self.trained_texts(vectors), vectors), dim=1), dim=1)

    def named_images(self, logits: Tensor) -> Tensor:
        """Return the part of pictures that needs no training, as unit vectors, (n, 384)."""
        weights, classes = logits.softmax(dim=1).topk(_LIKELIEST, dim=1)
        return normalize((weights[..., None] * self.class_vectors[classes]).sum(1), dim=1)

    def trained_images(self, features: Tensor) -> Tensor:
        """Return the trained part of pictures, as unit vectors, (n, 384)."""
        x = (features - self.mean) / self.deviation
        wide = self.dropout(nn.functional.gelu(self.wide(x)))
        return normalize(self.linear(x) + self.narrow(wide), dim=1)

    def trained_texts(self, vectors: Tensor) -> Tensor:
        """Return the trained part of texts, as unit vectors, (n, 384)."""
        return normalize(self.text(vectors), dim=1)


def load_head(path: Path) -> Head:
    """Return the head of a file that save_head wrote, in float32, for inference."""
    with torch.device("meta"):
        head = Head()
    tensors = {name: tensor.float() for name, tensor in load_file(path).items()}
    head.load_state_dict(tensors, assign=True)
    return head.eval().requires_grad_(False)


def save_head(head: Head, path: Path, metadata: dict[str, str]) -> None:
    """Write the head in float16 (5.5 MB). Equal heads make equal bytes."""
    tensors = {name: tensor.detach().half() for name, tensor in head.state_dict().items()}
    save_file(tensors, path, metadata)
