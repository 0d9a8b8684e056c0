"""The files of a checkpoint's folder, checked before anything reads them.

`doctor` and every command that opens a model go through `check_files`, so that all of them refuse a
broken folder with the same line, which names the file. Neither torch nor transformers is imported.
Of the weights only the headers are read.
"""

import json
import stat
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import orjson
from safetensors import SafetensorError, safe_open

from consumers.models.huggingface import vocabulary_files
from consumers.models.huggingface.vocabulary_files import BrokenFile
from contracts.errors import ModelMissing

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
CONFIG = "config.json"

_PROCESSOR = "preprocessor_config.json"
_WHOLE_PROCESSOR = "processor_config.json"
_TOKENIZER = "tokenizer.json"
_TOKENIZER_CONFIG = "tokenizer_config.json"
_OPEN_CLIP = "open_clip_config.json"

# JSON files that loading reads if they exist; any other JSON in the folder is not checked.
_OBJECTS = (
    CONFIG,
    INDEX,
    _PROCESSOR,
    _WHOLE_PROCESSOR,
    _TOKENIZER,
    _TOKENIZER_CONFIG,
    "added_tokens.json",
    "special_tokens_map.json",
    "vocab.json",
)
# The largest published tokenizer.json takes 34 MB.
JSON_BYTES_MAX = 256 << 20
# The limit of the format itself.
_HEADER_BYTES_MAX = 100_000_000
_HEAD_BYTES = 512

# The first bytes of files that replace the real one.
_STAND_INS = (
    (b"version https://git-lfs.github.com/", "is a Git LFS pointer"),
    (b"/annex/objects/", "is a git-annex pointer"),
    (b"<!doctype html", "is a web page"),
    (b"<html", "is a web page"),
)


def check_files(folder: Path, model: str) -> None:
    """Raise ModelMissing for the first file that is absent, or cannot be what its name says."""
    try:
        _check(folder)
    except BrokenFile as broken:
        advice = broken.advice or _fetch_again(folder, model)
        raise ModelMissing(f"model {model!r}: {broken}; {advice}") from broken


def check_weights(path: Path) -> dict[str, list[int]]:
    """Return the shape of each tensor. Raises BrokenFile unless it is a whole safetensors file."""
    _check_bytes(path)
    _check_size(path)
    try:
        with safe_open(path, framework="np") as tensors:
            return {name: tensors.get_slice(name).get_shape() for name in tensors.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise BrokenFile(path.name, f"is not a safetensors file ({error})") from error


def check_object(path: Path) -> dict[str, Any]:
    """Return the JSON object that `path` holds. Raises BrokenFile."""
    _check_bytes(path)
    size = path.stat().st_size
    if size > JSON_BYTES_MAX:
        raise BrokenFile(path.name, f"holds {size:,} bytes, limit {JSON_BYTES_MAX:,}")
    raw = path.read_bytes()
    try:
        value = orjson.loads(raw)
    except ValueError:
        try:
            # Python's own parser accepts NaN and Infinity, and says where it failed.
            value = json.loads(raw.decode())
        except (ValueError, RecursionError) as error:
            raise BrokenFile(path.name, f"is not JSON ({error})") from error
    if not isinstance(value, dict):
        raise BrokenFile(path.name, f"holds a {type(value).__name__}, where JSON objects belong")
    return value


def weight_files(folder: Path) -> list[str]:
    """Return the files that transformers will load: one, or the shards that an index names."""
    names = _names(folder)
    if WEIGHTS in names or INDEX not in names:
        return [WEIGHTS]
    return sorted(set(_weight_map(check_object(folder / INDEX)).values()))


def tensor_shapes(folder: Path) -> dict[str, list[int]]:
    """Return the shape of each tensor of a checkpoint. Raises BrokenFile."""
    shapes: dict[str, list[int]] = {}
    for name in weight_files(folder):
        shapes |= check_weights(folder / name)
    return shapes


def _check(folder: Path) -> None:
    names = _names(folder)
    if CONFIG not in names:
        raise _without_config(folder, names)
    objects = {name: check_object(folder / name) for name in _OBJECTS if name in names}
    for name, found in objects.items():
        if not isinstance(found.get("auto_map") or {}, dict | list):
            raise BrokenFile(name, f"has {found['auto_map']!r} as its auto_map, not an object")
    _check_all_weights(folder, objects)
    _check_processor(folder, objects)
    _check_tokenizer(folder, names, objects)


def _names(folder: Path) -> set[str]:
    try:
        return {path.name for path in folder.iterdir()}
    except OSError as error:
        raise BrokenFile(str(folder), f"cannot be read ({error.strerror})") from error


def _without_config(folder: Path, names: set[str]) -> BrokenFile:
    if _OPEN_CLIP in names:
        return BrokenFile(
            str(folder),
            "is of open_clip, whose format is not read",
            "take the same weights in transformers' (config.json and model.safetensors; many hub "
            "repositories hold both), or convert them to a CLIPModel and save_pretrained() it",
        )
    return BrokenFile(str(folder), f"holds no {CONFIG}", "give a model's folder")


def _fetch_again(folder: Path, model: str) -> str:
    if Path(model).expanduser() == folder:
        return "fetch it again"
    return f"fetch it again: hf download {model} --force-download"


# Any file


def _check_bytes(path: Path) -> None:
    """Raise BrokenFile unless the path is a regular file with content of its own."""
    try:
        found = path.stat()
        if not stat.S_ISREG(found.st_mode):
            found_type = "a directory" if stat.S_ISDIR(found.st_mode) else "no regular file"
            raise BrokenFile(path.name, f"is {found_type}, where a file is needed")
        with path.open("rb") as file:
            head = file.read(_HEAD_BYTES).lstrip().lower()
    except OSError as error:
        if path.is_symlink() and not path.exists():
            reason = f"is a link to {path.readlink()}, which cannot be followed"
            raise BrokenFile(path.name, f"{reason} ({error.strerror})") from error
        raise BrokenFile(path.name, f"cannot be read ({error.strerror})") from error
    if found.st_size == 0:
        raise BrokenFile(path.name, "is empty")
    for start, reason in _STAND_INS:
        if head.startswith(start):
            raise BrokenFile(path.name, f"{reason} of {found.st_size:,} bytes, not the file itself")


# Weights


def _check_all_weights(folder: Path, objects: Mapping[str, dict[str, Any]]) -> None:
    names = _names(folder)
    if WEIGHTS in names:
        check_weights(folder / WEIGHTS)
        return
    if INDEX not in objects:
        raise BrokenFile(
            str(folder),
            f"holds no {WEIGHTS}",
            "only safetensors weights are loaded, convert others with save_pretrained()",
        )
    weight_map = _weight_map(objects[INDEX])
    for shard in sorted(set(weight_map.values())):
        if shard not in names:
            raise BrokenFile(str(folder), f"holds no {shard}, which {INDEX} names")
        shapes = check_weights(folder / shard)
        absent = [name for name, at in weight_map.items() if at == shard and name not in shapes]
        if absent:
            raise BrokenFile(shard, f"holds no {absent[0]}, which {INDEX} names")


def _weight_map(index: Mapping[str, Any]) -> dict[str, str]:
    """Return the shard of each tensor. Raises BrokenFile unless all are names of files."""
    found = index.get("weight_map")
    if not isinstance(found, dict) or not found:
        raise BrokenFile(INDEX, "holds no weight_map")
    for shard in found.values():
        if not isinstance(shard, str) or Path(shard).name != shard:
            raise BrokenFile(
                INDEX, f"names {shard!r} in its weight_map, which is not a file's name"
            )
    return found


def _check_size(path: Path) -> None:
    """Raise BrokenFile if the header needs more bytes than there are: the copy was cut off."""
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
        if not 2 <= length <= _HEADER_BYTES_MAX:
            raise BrokenFile(path.name, f"is not a safetensors file of {size:,} bytes")
        if 8 + length > size:
            raise BrokenFile(path.name, f"is cut off: {size:,} bytes of a header of {length:,}")
        needed = 8 + length + _data_bytes(file.read(length))
    if size < needed:
        raise BrokenFile(path.name, f"is cut off: {size:,} bytes of {needed:,}")


def _data_bytes(header: bytes) -> int:
    """Return the end of the last tensor, or 0 for a header that safetensors itself refuses."""
    try:
        found = orjson.loads(header)
        ends = [one["data_offsets"][1] for name, one in found.items() if name != "__metadata__"]
    except (ValueError, TypeError, KeyError, IndexError, AttributeError):
        return 0
    return max((end for end in ends if isinstance(end, int)), default=0)


# Image processor and tokenizer


def _check_processor(folder: Path, objects: Mapping[str, dict[str, Any]]) -> None:
    if _PROCESSOR in objects or "image_processor" in objects.get(_WHOLE_PROCESSOR, {}):
        return
    raise BrokenFile(
        str(folder),
        f"holds no {_PROCESSOR}, so that nobody knows how pictures are scaled for it",
        "take it from where the model came from, or save_pretrained() its image processor there",
    )


def _check_tokenizer(folder: Path, names: set[str], objects: Mapping[str, dict[str, Any]]) -> None:
    if _TOKENIZER in objects:
        if not vocabulary_files.has_words(objects[_TOKENIZER]):
            raise BrokenFile(_TOKENIZER, "holds no words in its model.vocab")
        return
    found = [name for name in vocabulary_files.NAMES if name in names]
    for name in found:
        _check_bytes(folder / name)
    if found:
        vocabulary_files.check_vocabulary(folder, found, objects.get(CONFIG, {}), objects)
    elif "AutoTokenizer" not in _auto_map(objects.get(_TOKENIZER_CONFIG, {})):
        raise BrokenFile(
            str(folder),
            f"holds no tokenizer ({_TOKENIZER}, or {', '.join(vocabulary_files.NAMES)})",
            "take its files from where the model came from, or save_pretrained() the tokenizer "
            "there",
        )


def _auto_map(config: Mapping[str, Any]) -> Any:
    return config.get("auto_map") or {}
