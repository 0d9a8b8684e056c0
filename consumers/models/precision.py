"""The precision of a model's numbers while it runs: float32, bfloat16, float16, or int8.

None of them is the fastest everywhere: bfloat16 is 3.4 times as fast as float32 on a CPU with
AVX512_BF16, and no faster without. So they are measured, and their vectors are compared with those
of float32 (consumers/models/tuning).
"""

import warnings
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

Precision = Literal["float32", "bfloat16", "float16", "int8"]
PRECISIONS: tuple[Precision, ...] = get_args(Precision)

# The number of rows that oneDNN lays a matrix out for; any other number works as well.
_PACKED_FOR = 1024


@dataclass(frozen=True, slots=True)
class PrecisionChoice:
    """A precision, and how many pictures and texts go through the model at once.

    With `compiled`, full batches of pictures go through torch.compile, which wants one shape.

    The defaults suit a CPU: with ViT-B/32 on two cores without AVX-512, 32 pictures in two passes
    take 0.86 of the time of one pass in float32, and 0.93 in int8 (median of 18 pairs).
    """

    precision: Precision = "float32"
    pictures: int = 16
    texts: int = 64
    compiled: bool = False

    @property
    def dtype(self) -> torch.dtype:
        """The type of the model's inputs."""
        kept = {"bfloat16": torch.bfloat16, "float16": torch.float16}
        return kept.get(self.precision, torch.float32)


def convert_model(model: Any, choice: PrecisionChoice, device: torch.device) -> Any:
    """Return the float32 `model` in the chosen precision on `device`; this changes `model`."""
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

    Without it torch multiplies float32 by MKL, at half the speed on AMD processors, and lays a
    bfloat16 matrix out again at each call. torch.compile uses the same two operators; they have no
    public name.
    """

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.register_buffer("bias", linear.bias)
        self.packed = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach(), _PACKED_FOR)

    @property
    def weight(self) -> Tensor:
        """An empty tensor of the right type, since models ask for the type."""
        return torch.empty(0, dtype=self.packed.dtype)

    def forward(self, x: Tensor) -> Tensor:
        """Return the product with the matrix, plus the bias: (..., in) to (..., out)."""
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
    """Return the model with linear layers of 8-bit weights, for a CPU.

    Their activations have 8 bits too, in a range that is measured for each input.
    """
    to_int8 = torch.ao.quantization.default_dynamic_qconfig
    # SigLIP 2 asks for the type of the weight of this layer, which is small.
    kept = [name for name, _ in model.named_modules() if name.endswith(".patch_embedding")]
    with warnings.catch_warnings():
        # It is deprecated in favour of a separate package, whose CPU kernels need a compiler.
        warnings.simplefilter("ignore")
        quantised: nn.Module = torch.ao.quantization.quantize_dynamic(  # type: ignore[no-untyped-call]
            model, {nn.Linear: to_int8, **dict.fromkeys(kept)}
        )
    return quantised
