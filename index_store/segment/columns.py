"""Packed columns of rows that no longer change: a million rows are a dozen arrays.

A row's strings as Python objects take 300 bytes, and every garbage collection visits them; packed
they take their own bytes and 9 more, are written to a file as they are, and are mapped in one step.
"""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar, cast, overload

import numpy as np
import orjson
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from contracts.errors import SnapshotRefused
from contracts.score import Vectors
from index_store.segment.rows import Numbers, Origin, Rows

Arrays = dict[str, NDArray[Any]]

_NUMBERS = ("offsets", "appended_ms", "partitions", "hashes")
_STRINGS = ("ids", "items", "texts", "metadata")
# Rows are made of these columns; a file may have more of them.
_NEEDED = (
    *_NUMBERS,
    *(f"{name}.{part}" for name in _STRINGS for part in ("data", "ends", "present")),
    *(f"origins.topics.{part}" for part in ("data", "ends", "present")),
    "origins.partitions",
    "origins.codes",
)
# Rows gathered at a time. It bounds the arrays of positions, which take eight times the bytes that
# they gather.
_GATHER_ROWS = 32_768
# The names of the types in a safetensors file of columns.
_TYPES = {
    "BOOL": np.bool_,
    "U8": np.uint8,
    "U32": np.uint32,
    "U64": np.uint64,
    "I32": np.int32,
    "I64": np.int64,
}

T = TypeVar("T")


class PackedStrings(Sequence[T | None]):
    """A column of n strings, end to end in `data`.

    `ends` (n + 1,) begins with 0. `read` makes a string of a view of its bytes; a string that is
    not `present` (n,) is None.
    """

    def __init__(
        self,
        data: NDArray[np.uint8],
        ends: NDArray[np.int64],
        present: NDArray[np.bool_],
        read: Callable[["memoryview[Any]"], T],
    ) -> None:
        # These are memory views, as picking one number out of an array takes ten times as long.
        self._data = _view(data)
        self._ends = _view(ends)
        self._present = _view(present)
        self._whole = bool(present.all())
        self._read = read

    def __len__(self) -> int:
        return len(self._present)

    @overload
    def __getitem__(self, n: int) -> T | None: ...
    @overload
    def __getitem__(self, n: slice) -> Sequence[T | None]: ...
    def __getitem__(self, n: int | slice) -> T | Sequence[T | None] | None:
        if isinstance(n, slice):
            return [self[one] for one in range(*n.indices(len(self)))]
        if not (self._whole or self._present[n]):
            return None
        ends = self._ends
        return self._read(self._data[ends[n] : ends[n + 1]])

    def __iter__(self) -> Iterator[T | None]:
        data, ends, read = self._data, self._ends.tolist(), self._read
        for n, present in enumerate(self._present.tolist()):
            yield read(data[ends[n] : ends[n + 1]]) if present else None


class CodedStrings(Sequence[Origin]):
    """A column with few different values: `codes` (n,) are positions in `values`."""

    def __init__(self, values: Sequence[Origin], codes: NDArray[np.int32]) -> None:
        self._values = values
        self._codes = _view(codes)

    def __len__(self) -> int:
        return len(self._codes)

    @overload
    def __getitem__(self, n: int) -> Origin: ...
    @overload
    def __getitem__(self, n: slice) -> Sequence[Origin]: ...
    def __getitem__(self, n: int | slice) -> Origin | Sequence[Origin]:
        if isinstance(n, slice):
            return [self._values[code] for code in self._codes[n]]
        one: int = self._codes[n]
        return self._values[one]


def _view(array: NDArray[Any]) -> "memoryview[Any]":
    return np.ascontiguousarray(array).data


def pack_columns(rows: Rows, count: int) -> Arrays:
    """Pack the first `count` rows into arrays, without the vectors.

    A few C loops build each column, of about a millisecond for a growing segment; other threads run
    between them.
    """
    arrays: Arrays = {name: getattr(rows, name)[:count].copy() for name in _NUMBERS}
    for name in ("ids", "items", "texts"):
        column: Sequence[str | None] = getattr(rows, name)[:count]
        if None in column:
            arrays |= _packed(name, [None if s is None else s.encode() for s in column])
        else:
            arrays |= _packed(name, list(map(str.encode, column)))  # type: ignore[arg-type]
    arrays |= _packed("metadata", rows.metadata[:count])
    values: dict[Origin, int] = {}
    codes = [values.setdefault(origin, len(values)) for origin in rows.origins[:count]]
    arrays["origins.codes"] = np.array(codes, np.int32)
    return arrays | _origin_values(list(values))


def unpack_columns(arrays: Arrays, vectors: Vectors) -> Rows:
    """Return rows over these arrays and `vectors` (n, dim), without copies."""
    return Rows(
        _texts(arrays, "ids"),
        _column(arrays, "items", _text),
        _column(arrays, "texts", _text),
        _column(arrays, "metadata", bytes),
        CodedStrings(_origins(arrays), arrays["origins.codes"]),
        arrays["offsets"],
        arrays["appended_ms"],
        arrays["partitions"],
        arrays["hashes"],
        vectors,
    )


def count_rows(arrays: Arrays) -> int:
    """Return the number of rows."""
    return len(arrays["offsets"])


def gather_columns(pieces: Sequence[tuple[Arrays, Numbers]]) -> Arrays:
    """Return the numbered rows of each of `pieces`, one piece after the other, as new arrays."""
    arrays: Arrays = {
        name: np.concatenate([piece[name][numbers] for piece, numbers in pieces])
        for name in _NUMBERS
    }
    for name in _STRINGS:
        arrays[f"{name}.present"] = np.concatenate(
            [piece[f"{name}.present"][numbers] for piece, numbers in pieces]
        )
        data, lengths = [], []
        for piece, numbers in pieces:
            for start in range(0, len(numbers), _GATHER_ROWS):
                some = numbers[start : start + _GATHER_ROWS]
                data.append(_gather(piece[f"{name}.data"], piece[f"{name}.ends"], some))
            lengths.append(np.diff(piece[f"{name}.ends"])[numbers])
        arrays[f"{name}.data"] = np.concatenate([np.empty(0, np.uint8), *data])
        arrays[f"{name}.ends"] = _ends(np.concatenate([np.empty(0, np.int64), *lengths]))
    values: dict[Origin, int] = {}
    codes = [np.empty(0, np.int32)]
    for piece, numbers in pieces:
        known = [values.setdefault(origin, len(values)) for origin in _origins(piece)]
        codes.append(np.array(known, np.int32)[piece["origins.codes"][numbers]])
    arrays["origins.codes"] = np.concatenate(codes)
    return arrays | _origin_values(list(values))


def save_columns(arrays: Arrays, path: Path) -> None:
    """Write columns to a file. Raises OSError, as for a full disk."""
    try:
        save_file(arrays, path)
    except SafetensorError as error:
        raise OSError(f"{path.name}: {error}") from error


def load_columns(path: Path) -> Arrays:
    """Map the columns in a file. Raises SnapshotRefused unless they are whole.

    The library's own reader copies every byte while it holds the interpreter: 0.2 s for a million
    rows, in which no search is answered.
    """
    try:
        # Opening checks the header and that the file is whole; safetensors' README has the format.
        with safe_open(path, framework="np"):
            pass
        raw = np.memmap(path, np.uint8, "r")
        start = 8 + int.from_bytes(raw[:8].tobytes(), "little")
        header = orjson.loads(raw[8:start].tobytes())
        header.pop("__metadata__", None)
        arrays = {name: _mapped(raw[start:], **about) for name, about in header.items()}
    except (SafetensorError, OSError, KeyError) as error:
        raise SnapshotRefused(f"{path.name}: unreadable ({error})") from None
    missing = [name for name in _NEEDED if name not in arrays]
    if missing:
        raise SnapshotRefused(f"{path.name}: the column {missing[0]} is missing")
    return arrays


def _mapped(
    raw: NDArray[np.uint8], dtype: str, shape: list[int], data_offsets: tuple[int, int]
) -> NDArray[Any]:
    data = raw[slice(*data_offsets)].view(np.ndarray)
    found: NDArray[Any] = data.view(_TYPES[dtype]).reshape(shape)
    return found


def _packed(name: str, column: Sequence[bytes | None]) -> Arrays:
    if None in column:
        present = np.fromiter((raw is not None for raw in column), np.bool_, len(column))
        column = [raw or b"" for raw in column]
    else:
        present = np.ones(len(column), np.bool_)
    lengths = np.fromiter(map(len, column), np.int64, len(column))  # type: ignore[arg-type]
    data = np.frombuffer(b"".join(column), np.uint8)  # type: ignore[arg-type]
    return {f"{name}.data": data, f"{name}.ends": _ends(lengths), f"{name}.present": present}


def _ends(lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    ends = np.zeros(len(lengths) + 1, np.int64)
    np.cumsum(lengths, out=ends[1:])
    return ends


def _gather(
    data: NDArray[np.uint8], ends: NDArray[np.int64], numbers: Numbers
) -> NDArray[np.uint8]:
    starts, lengths = ends[numbers], np.diff(ends)[numbers]
    before = np.cumsum(lengths) - lengths
    places = np.repeat(starts - before, lengths) + np.arange(int(lengths.sum()))
    return data[places]


def _column(arrays: Arrays, name: str, read: Callable[["memoryview[Any]"], T]) -> PackedStrings[T]:
    data, ends, present = (arrays[f"{name}.{part}"] for part in ("data", "ends", "present"))
    return PackedStrings(data, ends, present, read)


def _texts(arrays: Arrays, name: str) -> Sequence[str]:
    """Return a column in which every string is present."""
    return cast(Sequence[str], _column(arrays, name, _text))


def _origins(arrays: Arrays) -> list[Origin]:
    topics = _texts(arrays, "origins.topics")
    return list(zip(topics, arrays["origins.partitions"].tolist(), strict=True))


def _origin_values(values: Sequence[Origin]) -> Arrays:
    topics = _packed("origins.topics", [topic.encode() for topic, _ in values])
    return topics | {"origins.partitions": np.array([n for _, n in values], np.int32)}


def _text(raw: "memoryview[Any]") -> str:
    return str(raw, "utf-8")
