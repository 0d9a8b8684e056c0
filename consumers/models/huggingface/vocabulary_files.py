"""Checks a tokenizer's vocabulary files, which folders without a tokenizer.json hold.

A truncated copy of such a file is still a text with words, only with fewer of them.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

VOCAB = "vocab.json"
MERGES = "merges.txt"
WORDS = "vocab.txt"
PIECES = ("spiece.model", "sentencepiece.bpe.model", "tokenizer.model")
NAMES = (VOCAB, MERGES, WORDS, *PIECES)

# Models have up to a hundredth more rows than words, for the sake of round numbers.
_WORDS_SHARE_MIN = 0.9
# Words that come from no merge are special ones.
_UNMADE_SHARE_MAX = 0.1
_WORD_END = "</w>"


class BrokenFile(Exception):
    """A file of a checkpoint, or its folder, and what is wrong with it, in one line."""

    def __init__(self, name: str, reason: str, advice: str | None = None) -> None:
        super().__init__(" ".join(f"{name} {reason}".split()))
        self.advice = advice


def has_words(tokenizer: Mapping[str, Any]) -> bool:
    """Tell whether a tokenizer.json has a vocabulary: a list or an object, by its model's type."""
    model = tokenizer.get("model")
    return isinstance(model, dict) and bool(model.get("vocab"))


def check_vocabulary(
    folder: Path,
    found: Sequence[str],
    config: Mapping[str, Any],
    objects: Mapping[str, Mapping[str, Any]],
) -> None:
    """Raise BrokenFile where one of the files `found` was cut off, or misses its companion.

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
    """Each merge makes a word of the vocabulary, and nearly every word of it comes from one."""
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
    """A sentencepiece model is a row of protobuf fields; the last one ends where the file does."""
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
    """Return the number at `at`, and where it ends: behind the data where it is cut off."""
    value = shift = 0
    while at < len(data):
        byte = data[at]
        value |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if byte < 128:
            return value, at
    return value, len(data) + 1
