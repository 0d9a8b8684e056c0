"""JSON whose integers are read exactly, or refused.

orjson returns the nearest float64 for an integer of more than 64 bits, without an error, and a
filter would then match other integers too. Exact parsing takes ten times as long. So the parsed
value is searched for floats that may have been such integers. Only if there is one, the text is
parsed a second time, to distinguish 2^70 from 1e300 and to name the field.
"""

import json
import math
import sys
from codecs import BOM_UTF8
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import orjson

INTEGER_MIN, INTEGER_MAX = -(2**63), 2**64 - 1
FLOAT_MAX = sys.float_info.max
# A vector is a long list of floats. Integers in it are meant as floats.
_VECTOR = "vector"
# Python refuses to convert more than 4,300 digits. Integers of 400 digits are out of bounds anyway.
_DIGITS_READ = 400
_SHOWN_CHARS = 30


@dataclass(frozen=True, slots=True)
class InexactNumber:
    """A number that cannot be read exactly: its dotted path, the limit, and its first digits."""

    field: str
    limit: float
    value: str

    @property
    def message(self) -> str:
        """The error text, which names the limit and the value."""
        bits = " (64 bits)" if isinstance(self.limit, int) else ""
        return f"limit {self.limit}{bits}, got {self.value}"


class InexactNumberError(ValueError):
    """JSON holds a number that cannot be read exactly."""

    def __init__(self, number: InexactNumber) -> None:
        super().__init__(f"{number.field or 'value'}: {number.message}")
        self.number = number


def loads(raw: bytes | str, *, only: str | None = None) -> Any:
    """Parse JSON. Raises ValueError for anything else, and InexactNumberError.

    Integers may have any size in members named `vector`. With `only`, they may have any size in
    every member of the object but that one.
    """
    try:
        found = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        if error.msg.startswith("number is infinity"):
            # This is valid JSON, so the error must name the number.
            _refuse_inexact(raw, None, (), lambda number: abs(number) > FLOAT_MAX)
        unmarked = _without_mark(raw)
        if unmarked is not None:
            return loads(unmarked, only=only)
        raise
    if _may_be_rounded(_part(found, only)):
        _refuse_inexact(raw, only, (_VECTOR,), lambda n: isinstance(n, int) and _is_inexact(n))
    return found


def _without_mark(raw: bytes | str) -> bytes | str | None:
    """Return the text after a byte-order mark, which readers may ignore (RFC 8259, section 8.1).

    Return None unless there is exactly one mark.
    """
    if isinstance(raw, str):
        return raw[1:] if raw.startswith("\ufeff") and not raw.startswith("\ufeff", 1) else None
    size = len(BOM_UTF8)
    return raw[size:] if raw.startswith(BOM_UTF8) and not raw.startswith(BOM_UTF8, size) else None


def find_inexact(value: Any) -> InexactNumber | None:
    """Return the first number in `value` that is neither a 64-bit integer nor a finite float."""
    if not _any_inexact(value):
        return None
    found = ((path, number) for path, number in _numbers(value, "", ()) if _is_inexact(number))
    return _described(*next(found))


def _refuse_inexact(
    raw: bytes | str, only: str | None, without: tuple[str, ...], is_wrong: Callable[[float], bool]
) -> None:
    try:
        exact = json.loads(raw, parse_int=_integer, parse_constant=_no_constant)
        for path, number in _numbers(_part(exact, only), only or "", without):
            if is_wrong(number):
                raise InexactNumberError(_described(path, number))
    except RecursionError:
        # orjson reads up to 1,024 levels. No message of Tidelens has as many.
        raise ValueError("nested too deep") from None


def _part(body: Any, only: str | None) -> Any:
    if only is None:
        return body
    return body.get(only) if isinstance(body, dict) else None


def _integer(text: str) -> int:
    return int(text[:_DIGITS_READ])


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not a JSON number")


# The next two functions run on every body and record, so each is a loop without recursion.
def _may_be_rounded(value: Any) -> bool:
    left = [value]
    while left:
        one = left.pop()
        if isinstance(one, float):
            if one >= 2.0**64 or one <= -(2.0**63):
                return True
        elif isinstance(one, dict):
            left.extend(member for name, member in one.items() if name != _VECTOR)
        elif isinstance(one, list):
            left.extend(one)
    return False


def _any_inexact(value: Any) -> bool:
    left = [value]
    while left:
        one = left.pop()
        if isinstance(one, int | float):
            if _is_inexact(one):
                return True
        elif isinstance(one, dict):
            left.extend(one.values())
        elif isinstance(one, list):
            left.extend(one)
    return False


def _is_inexact(number: float) -> bool:
    if isinstance(number, int):
        return not INTEGER_MIN <= number <= INTEGER_MAX
    return not math.isfinite(number)


def _numbers(value: Any, path: str, without: tuple[str, ...]) -> Iterator[tuple[str, float]]:
    """Yield each number in `value`, in order, with its path; skip members named in `without`."""
    if isinstance(value, int | float):
        yield path, value
        return
    members: list[tuple[Any, Any]] = []
    if isinstance(value, dict):
        members = [(name, member) for name, member in value.items() if name not in without]
    elif isinstance(value, list):
        members = list(enumerate(value))
    for name, member in members:
        yield from _numbers(member, f"{path}.{name}" if path else str(name), without)


def _described(path: str, number: float) -> InexactNumber:
    limit = FLOAT_MAX if isinstance(number, float) else INTEGER_MAX if number > 0 else INTEGER_MIN
    text = str(number)
    shown = text if len(text) <= _SHOWN_CHARS else text[:_SHOWN_CHARS] + "..."
    return InexactNumber(path, limit, shown)
