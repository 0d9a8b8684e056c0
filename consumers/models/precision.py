"""How a model's numbers are kept while it runs: float32, bfloat16, float16, or int8.

None is fastest everywhere: bfloat16 is 3.4 times float32 on a CPU with AVX512_BF16 and no better
without. So it is measured (probe.py, tuning.py), and held to float32's vectors.
"""

import warnings
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

Precision = Literal["float32", "bfloat16", "float16", "int8"]
PRECISIONS: tuple[Precision, ...] = get_args(Precision)

# Rows that oneDNN lays a matrix out for; others are served as well.
_PACKED_FOR = 1024


@dataclass(frozen=True, slots=True)
class PrecisionChoice:
    """A precision, and how many pictures and texts go through the model at once.

    `compiled`: full batches of pictures go through torch.compile, which wants one shape.

    By default what suits a CPU: of ViT-B/32 on two cores without AVX-512, 32 pictures in passes
    of 16 take .86 of the time of one of 32 in float32, .93 in int8 (median of 18 pairs).
    """

    precision: Precision = "float32"
    pictures: int = 16
    texts: int = 64
    compiled: bool = False

    @property
    def dtype(self) -> torch.dtype:
        """Of the model's inputs."""
        kept = {"bfloat16": torch.bfloat16, "float16": torch.float16}
        return kept.get(self.precision, torch.float32)


def convert_model(model: Any, choice: PrecisionChoice, device: torch.device) -> Any:
    """The float32 `model` in that precision on `device`; it is used up by this."""
    if choice.precision == "int8":
        return _quantised(model)
    model = model.to(device, choice.dtype)
    # A compiler lays matrices out by itself, and cannot look into packed ones.
    packs = device.type == "cpu" and choice.precision != "float16" and not choice.compiled
    if packs and _packs(choice.dtype):
        _pack(model)
    return model


class PackedLinear(nn.Module):
    """A linear layer whose matrix lies in oneDNN's own layout.

    torch multiplies float32 by MKL otherwise, at half the speed on AMD processors, and lays a
    bfloat16 matrix out anew at each call. torch.compile uses the same two operators; they have no
    public name.
    """

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.register_buffer("bias", linear.bias)
        self.packed = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach(), _PACKED_FOR)

    @property
    def weight(self) -> Tensor:
        """Without content: models ask what type it is of."""
        return torch.empty(0, dtype=self.packed.dtype)

    def forward(self, x: Tensor) -> Tensor:
        product: Tensor = torch.ops.mkldnn._linear_pointwise(
            x, self.packed, self.bias, "none", [], ""
        )
        return product


def _packs(dtype: torch.dtype) -> bool:
    if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return False
    return dtype == torch.float32 or bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def _pack(module: nn.Module) -> None:
    for name, child in module.named_children():
        # Subclasses are read by name elsewhere: the projection of nn.MultiheadAttention is one.
        if type(child) is nn.Linear:
            setattr(module, name, PackedLinear(child))
        else:
            _pack(child)


def _quantised(model: nn.Module) -> nn.Module:
    """Linear layers with 8-bit weights and, found for each input, 8-bit activations. CPU only."""
    to_int8 = torch.ao.quantization.default_dynamic_qconfig
    # SigLIP 2 asks what type the weight of this one is of, and it is small.
    kept = [name for name, _ in model.named_modules() if name.endswith(".patch_embedding")]
    with warnings.catch_warnings():
        # Deprecated in favour of a package of its own, whose CPU kernels need a compiler.
        warnings.simplefilter("ignore")
        quantised: nn.Module = torch.ao.quantization.quantize_dynamic(  # type: ignore[no-untyped-call]
            model, {nn.Linear: to_int8, **dict.fromkeys(kept)}
        )
    return quantised
