"""The model all-MiniLM-L6-v2 in plain torch: it makes 384 numbers of a text.

A BERT of six layers is short enough to write out, and importing transformers for it would take 10 s
of each start. The result equals that of transformers' BertModel with mean pooling
(tests/unit/consumers/test_starter.py).
"""

from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer
from torch import Tensor
from torch.nn import functional

DIM = 384
TOKENS_MAX = 256  # the length of its training (sentence_bert_config.json)

_LAYERS = 6
_HEADS = 12
_NORM_EPSILON = 1e-12
_BATCH = 32  # measured: 16 to 64 are as fast, more are slower
_PACKED_FOR = 512  # rows of a typical batch, a hint for the layout


class MiniLM:
    """The encoder of sentences; `folder` holds its weights and its tokenizer."""

    def __init__(self, folder: Path) -> None:
        self._weights = load_file(folder / "model.safetensors")
        self._packed = _packed(self._weights)
        self._tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self._tokenizer.enable_truncation(TOKENS_MAX)
        self._tokenizer.no_padding()
        self.truncated = 0

    def tokens(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the token ids of each text, at most TOKENS_MAX."""
        return [encoding.ids for encoding in self._tokenizer.encode_batch(list(texts))]

    @torch.inference_mode()
    def encode(self, texts: Sequence[str]) -> Tensor:
        """Return mean-pooled unit vectors, (n, 384) float32.

        Texts of similar length go through the model together.
        """
        encodings = self._tokenizer.encode_batch(list(texts))
        self.truncated += sum(bool(encoding.overflowing) for encoding in encodings)
        tokens = [encoding.ids for encoding in encodings]
        order = sorted(range(len(tokens)), key=lambda row: len(tokens[row]))
        vectors = torch.empty(len(tokens), DIM)
        for start in range(0, len(order), _BATCH):
            rows = order[start : start + _BATCH]
            vectors[rows] = self._encode_batch([tokens[row] for row in rows])
        return vectors

    def _encode_batch(self, batch: Sequence[Sequence[int]]) -> Tensor:
        longest = max(len(ids) for ids in batch)
        ids = torch.tensor([[*ids, *[0] * (longest - len(ids))] for ids in batch])
        lengths = torch.tensor([[len(ids)] for ids in batch])
        mask = torch.arange(longest) < lengths  # True where there is a token
        hidden = self._forward(ids, mask)
        kept = mask[..., None].to(hidden.dtype)
        return functional.normalize((hidden * kept).sum(1) / lengths, dim=1)

    def _forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        n, length = ids.shape
        weights = self._weights
        hidden = (
            weights["embeddings.word_embeddings.weight"][ids]
            + weights["embeddings.position_embeddings.weight"][:length]
            + weights["embeddings.token_type_embeddings.weight"][0]
        )
        hidden = self._norm(hidden, "embeddings.LayerNorm")
        attended = mask[:, None, None, :]
        for layer in range(_LAYERS):
            at = f"encoder.layer.{layer}"
            query, key, value = (
                self._linear(hidden, f"{at}.attention.self.{part}")
                .view(n, length, _HEADS, -1)
                .transpose(1, 2)
                for part in ("query", "key", "value")
            )
            mixed = functional.scaled_dot_product_attention(query, key, value, attended)
            mixed = mixed.transpose(1, 2).reshape(n, length, DIM)
            mixed = self._linear(mixed, f"{at}.attention.output.dense")
            hidden = self._norm(hidden + mixed, f"{at}.attention.output.LayerNorm")
            wide = functional.gelu(self._linear(hidden, f"{at}.intermediate.dense"))
            wide = self._linear(wide, f"{at}.output.dense")
            hidden = self._norm(hidden + wide, f"{at}.output.LayerNorm")
        return hidden

    def _linear(self, x: Tensor, name: str) -> Tensor:
        bias = self._weights[f"{name}.bias"]
        if name in self._packed:
            packed = self._packed[name]
            product: Tensor = torch.ops.mkldnn._linear_pointwise(x, packed, bias, "none", [], "")
            return product
        return functional.linear(x, self._weights[f"{name}.weight"], bias)

    def _norm(self, x: Tensor, name: str) -> Tensor:
        weight, bias = self._weights[f"{name}.weight"], self._weights[f"{name}.bias"]
        return functional.layer_norm(x, (DIM,), weight, bias, _NORM_EPSILON)


def _packed(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the layers' matrices in oneDNN's own layout, or none if torch was built without it.

    Without it torch multiplies float32 by MKL, at half the speed on AMD processors (100 against 190
    GFLOP/s on two cores). torch.compile uses the same two operators; they have no public name.
    """
    if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return {}
    return {
        name.removesuffix(".weight"): torch.ops.mkldnn._reorder_linear_weight(tensor, _PACKED_FOR)
        for name, tensor in weights.items()
        if name.startswith("encoder.") and tensor.dim() == 2
    }
