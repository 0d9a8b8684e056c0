"""The space of a model, found without loading it and without torch or transformers.

The starter's space comes from the digests of its three files. That of a Hugging Face checkpoint
comes from its folder: the revision is the commit hash if the hub gave one, or otherwise a digest of
its files. The dimension is read from the header of its safetensors file, since configurations leave
out defaults.
"""

import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path

from consumers.models.huggingface.checkpoint_files import CONFIG, check_files, tensor_shapes
from consumers.models.huggingface.vocabulary_files import BrokenFile
from consumers.models.starter import weights
from contracts.errors import ModelMissing
from contracts.space import Space

STARTER = "starter"
STARTER_DIM = 768

# Change this text whenever the same picture or caption would give the starter another vector.
_STARTER_PREPROCESSING = "rgb-centre-224of256-bicubic-(x-127)/128 wordpiece-256"

# Files that loading may read, in the folder itself. Other weights may be beside, as open_clip's.
_FILES = ("*.json", "*.txt", "*.model", "model.safetensors", "model-*.safetensors")
_CODE = "*.py"
# Files whose `auto_map` names classes that come with the checkpoint.
_MAPS = ("config.json", "tokenizer_config.json", "preprocessor_config.json")
_COMMIT = re.compile(r"[0-9a-f]{40}")

# Names of the last tensor of the text side, whose first axis is the dimension of the space.
_TEXT_PROJECTIONS = (
    "text_projection.weight",  # CLIP, AltCLIP, Chinese-CLIP, ALIGN, MetaCLIP 2
    "text_model.head.weight",  # SigLIP, SigLIP 2
    "text_projection.linear2.weight",  # CLAP-like two-layer heads
)


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A checkpoint's folder, with a name and a revision that are the same on every machine.

    With `remote_code`, Python code in the folder may be run.
    """

    folder: Path
    name: str
    revision: str
    remote_code: bool = False


def starter_space() -> Space:
    """Return the starter's space, in 20 ms, mostly for the head's SHA-256. Raises ModelMissing."""
    weights.check_files()
    parts = (
        weights.sha256_of(weights.HEAD),
        weights.EFFICIENTNET_SHA256,
        weights.MINILM_ZIP_SHA256,
    )
    return Space(
        name="starter-v1",
        model=STARTER,
        revision=hashlib.sha256("".join(parts).encode()).hexdigest()[:40],
        preprocessing=_STARTER_PREPROCESSING,
        dim=STARTER_DIM,
    )


def checkpoint_space(checkpoint: Checkpoint) -> Space:
    """Return the space of a Hugging Face checkpoint with image and text features.

    Raises ModelMissing if it has no such features.
    """
    slug = re.sub(r"[^a-z0-9]+", "-", checkpoint.name.rsplit("/", 1)[-1].lower()).strip("-")
    return Space(
        name=f"{slug[:54] or 'model'}-{checkpoint.revision[:8]}",
        model=checkpoint.name,
        revision=checkpoint.revision,
        preprocessing="as the checkpoint's own processors",
        dim=_dim(checkpoint.folder),
    )


def find_checkpoint(model: str, *, remote_code: bool = False) -> Checkpoint:
    """Return the checkpoint of a local folder, or of a hub name in its newest reachable snapshot.

    Without a network the hub's local cache is used as it is. Python files are fetched only for
    `remote_code`; the revision covers them either way. Raises ModelMissing.
    """
    folder = Path(model).expanduser()
    if folder.is_dir():
        check_files(folder, model)
        return Checkpoint(folder, folder.resolve().name, _digest(folder), remote_code)
    if folder.exists():
        raise ModelMissing(f"model {model!r} is a file; give the folder that it lies in")
    folder = _download(model, remote_code)
    check_files(folder, model)
    revision = folder.name if _COMMIT.fullmatch(folder.name) else _digest(folder)
    return Checkpoint(folder, model, revision, remote_code)


def remote_code_classes(folder: Path) -> list[str]:
    """Return the classes that the checkpoint brings, as `module.Class`.

    A class of another repository is `owner/name--module.Class`.
    """
    found: list[str] = []
    for name in _MAPS:
        if (folder / name).is_file():
            mapped = json.loads((folder / name).read_bytes()).get("auto_map") or {}
            values = mapped.values() if isinstance(mapped, dict) else mapped
            for value in values:
                found += [value] if isinstance(value, str) else [part for part in value if part]
    return found


def _download(model: str, remote_code: bool) -> Path:
    # Imported here, since it takes 0.3 s that a local folder and the starter do not need.
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError

    try:
        return Path(
            snapshot_download(
                model,
                allow_patterns=[*_FILES, _CODE] if remote_code else list(_FILES),
                ignore_patterns=["*/*"],
            )
        )
    except HFValidationError:
        raise ModelMissing(
            f"model {model!r}: no such folder, and not a hub name (owner/name) either; "
            f"give one of these, or leave it at {STARTER!r}"
        ) from None
    except Exception as error:  # the hub client, its transport and the disk each raise their own
        reason = str(error).strip().split("\n")[0] or type(error).__name__
        raise ModelMissing(
            f"model {model!r} is neither a local folder, nor in the hub's cache, nor available "
            f"from the hub ({reason}); check the name and the network, or give a folder"
        ) from error


def _digest(folder: Path) -> str:
    """Return 40 hexadecimal digits over names and bytes of every file that loading may read."""
    total = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        if any(path.match(pattern) for pattern in (*_FILES, _CODE)) and path.is_file():
            total.update(f"{path.name} {weights.sha256_of(path)}\n".encode())
    return total.hexdigest()[:40]


def _dim(folder: Path) -> int:
    try:
        shapes = tensor_shapes(folder)
    except BrokenFile as broken:  # it has changed since it was checked
        raise ModelMissing(f"{broken}; fetch it again") from broken
    for name in _TEXT_PROJECTIONS:
        if shapes.get(name):
            return shapes[name][0]
    config = json.loads((folder / CONFIG).read_bytes())
    if isinstance(config.get("projection_dim"), int):
        return int(config["projection_dim"])
    raise ModelMissing(
        f"{folder} is a checkpoint of type {config.get('model_type')!r}, which has no text and "
        f"image features in one space; give a CLIP or SigLIP-like one"
    )
