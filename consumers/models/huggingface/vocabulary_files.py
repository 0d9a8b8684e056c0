"""The check of a tokenizer's vocabulary files, in folders without a tokenizer.json.

A truncated copy of such a file is still a text with words, but with fewer of them.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

VOCAB = "vocab.json"
MERGES = "merges.txt"
WORDS = "vocab.txt"
PIECES = ("spiece.model", "sentencepiece.bpe.model", "tokenizer.model")
NAMES = (VOCAB, MERGES, WORDS, *PIECES)

# Models have up to a hundredth more rows than words, to reach round numbers.
_WORDS_SHARE_MIN = 0.9
# Words that do not come from a merge are special tokens.
_UNMADE_SHARE_MAX = 0.1
_WORD_END = "</w>"


class BrokenFile(Exception):
    """A file of a checkpoint, or its folder, and what is wrong with it, in one line."""

    def __init__(self, name: str, reason: str, advice: str | None = None) -> None:
        super().__init__(" ".join(f"{name} {reason}".split()))
        self.advice = advice


def has_words(tokenizer: Mapping[str, Any]) -> bool:
    """Return whether a tokenizer.json has a vocabulary, which is a list or an object."""
    model = tokenizer.get("model")
    return isinstance(model, dict) and bool(model.get("vocab"))


def check_vocabulary(
    folder: Path,
    found: Sequence[str],
    config: Mapping[str, Any],
    objects: Mapping[str, Mapping[str, Any]],
) -> None:
    """Raise BrokenFile if one of the files `found` was cut off, or its companion is missing.

    `objects` holds the folder's JSON by file name.
    """
    if VOCAB in found and MERGES not in found:
        raise BrokenFile(VOCAB, f"needs {MERGES} beside it, which is absent")
    if MERGES in found:
        if VOCAB not in found:
            raise BrokenFile(MERGES, f"needs {VOCAB} beside it, which is absent")
        _check_merges(folder / MERGES, objects[VOCAB])
    if WORDS in found:
        _check_words(folder / WORDS, config)
    for name in PIECES:
        if name in found:
            _check_pieces(folder / name)


def _check_merges(path: Path, vocabulary: Mapping[str, Any]) -> None:
    """Raise BrokenFile unless each merge makes a word, and nearly every word comes from one."""
    made = set()
    for line in _lines(path):
        if line.startswith("#version") or not line.strip():
            continue
        parts = line.split()
        if len(parts) != 2 or "".join(parts) not in vocabulary:
            raise BrokenFile(
                path.name, f"holds the line {line[:40]!r}, which makes no word of {VOCAB}"
            )
        made.add("".join(parts))
    whole = [word for word in vocabulary if len(word.removesuffix(_WORD_END)) > 1]
    unmade = len(set(whole) - made)
    if unmade > max(_UNMADE_SHARE_MAX * len(vocabulary), 8):
        raise BrokenFile(
            path.name,
            f"is cut off: {unmade:,} of the {len(vocabulary):,} words of {VOCAB} come from no line",
        )


def _check_words(path: Path, config: Mapping[str, Any]) -> None:
    count = len(_lines(path))
    text = config.get("text_config")
    wanted = (text if isinstance(text, dict) else config).get("vocab_size")
    if isinstance(wanted, int) and count < _WORDS_SHARE_MIN * wanted:
        raise BrokenFile(
            path.name, f"is cut off: {count:,} words, where config.json has {wanted:,}"
        )


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text("utf-8").split("\n")
    except UnicodeDecodeError as error:
        raise BrokenFile(path.name, f"is not UTF-8 ({error.reason})") from error


def _check_pieces(path: Path) -> None:
    """Raise BrokenFile unless a sentencepiece model ends with its last protobuf field."""
    data, at = path.read_bytes(), 0
    while at < len(data):
        tag, at = _varint(data, at)
        if tag & 7 == 2:  # length-delimited: words, and the trainer's settings
            length, at = _varint(data, at)
            at += length
        elif tag & 7 == 5:
            at += 4
        elif tag & 7 == 1:
            at += 8
        elif tag & 7 == 0:
            _, at = _varint(data, at)
        else:
            raise BrokenFile(path.name, "is not a sentencepiece model")
    if at > len(data):
        raise BrokenFile(path.name, f"is cut off, at {len(data):,} bytes")


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """Return the number at `at` and its end, which is behind the data if it is cut off."""
    value = shift = 0
    while at < len(data):
        byte = data[at]
        value |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if byte < 128:
            return value, at
    return value, len(data) + 1
