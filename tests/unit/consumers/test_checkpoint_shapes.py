"""A configuration that is not that of its weights is refused by the name of a tensor."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from consumers.models import open_encoder
from contracts.errors import ModelMissing
from tests.unit.consumers.test_huggingface_encoder import make_checkpoint

pytestmark = pytest.mark.model


def projecting(config: dict[str, Any]) -> None:
    config["projection_dim"] = 25


def patching(config: dict[str, Any]) -> None:
    config["vision_config"]["patch_size"] = 16


def sharded(folder: Path) -> None:
    """Spread the weights over two files."""
    from safetensors.torch import load_file, save_file

    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    shards = {name: f"model-0000{1 + (name > 'u')}-of-00002.safetensors" for name in tensors}
    for shard in set(shards.values()):
        held = {name: tensor for name, tensor in tensors.items() if shards[name] == shard}
        save_file(held, folder / shard, {"format": "pt"})
    index = {"metadata": {}, "weight_map": shards}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def whole(_: Path) -> None:
    pass


@pytest.mark.parametrize(
    ("kind", "change", "spread", "says"),
    [
        (
            "clip",
            projecting,
            whole,
            "model.safetensors holds 'text_projection.weight' in the shape [24, 32], where "
            "config.json asks for [25, 32] (and 1 more)",
        ),
        ("clip", projecting, sharded, "model-00001-of-00002.safetensors holds 'text_projection"),
        ("siglip", patching, sharded, "model-00002-of-00002.safetensors holds 'vision_model."),
        ("siglip", patching, whole, "[32, 3, 8, 8], where config.json asks for [32, 3, 16, 16]"),
    ],
)
def test_file_tensor_and_both_shapes_are_named(
    kind: str,
    change: Callable[[dict[str, Any]], None],
    spread: Callable[[Path], None],
    says: str,
    tmp_path: Path,
) -> None:
    folder = make_checkpoint(kind, tmp_path / kind)
    spread(folder)
    config = json.loads((folder / "config.json").read_bytes())
    change(config)
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelMissing) as caught:
        open_encoder(str(folder), threads=1, precision="float32")
    said = str(caught.value)
    assert says in said
    assert "\n" not in said and "ignore_mismatched_sizes" not in said
