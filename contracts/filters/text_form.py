"""Filters as text, for the command line: the same meaning as their JSON form.

    lang = "en" and (year >= 2000 or tags contains "cat") and not exists(draft)
    lang in ("en", "de")

    filter     := all ("or" all)*
    all        := one ("and" one)*
    one        := "not" one | "(" filter ")" | "exists" "(" FIELD ")"
                | FIELD ("=" | "!=") VALUE | FIELD ("<" | "<=" | ">" | ">=") NUMBER
                | FIELD "in" "(" VALUE ("," VALUE)* ")" | FIELD "contains" VALUE
    VALUE      := a JSON string, a JSON number, true or false
    FIELD      := a bare name such as year or exif.iso, or a JSON string for any other name

Operators may be in capitals. `a != 1` is `not a = 1`, so it matches items without `a` too.
"""

import re
from collections.abc import Callable
from typing import Any, NamedTuple, NoReturn

from contracts.errors import RejectedRequest
from contracts.wire.exact_json import InexactNumberError, find_inexact, loads

FILTER_TEXT_CHARS_MAX = 10_000
# Bounds the recursion. The depth of the filter is limited where its JSON is parsed.
NESTING_MAX = 32

_TOKEN = re.compile(
    r"""\s*(?:
      (?P<string>"(?:[^"\\\x00-\x1f]|\\.)*")
    | (?P<number>-?\d[\w.+-]*)
    | (?P<word>[^\W\d][\w.:/-]*)
    | (?P<sign><=|>=|!=|[=<>(),])
    )""",
    re.VERBOSE,
)
_BOUNDS = {"<": "lt", "<=": "lte", ">": "gt", ">=": "gte"}
_WORDS = frozenset({"and", "or", "not", "in", "contains", "exists", "true", "false"})


class _Token(NamedTuple):
    """A token of the text. `at` is the index of its first character, from 0.

    `type` is the name of a group of _TOKEN, or `end`. `text` is a sign, or a word of the grammar in
    lower case, and empty for any other token. `raw` is the token as it was written.
    """

    type: str
    text: str
    raw: str
    at: int


def parse_text(text: str) -> dict[str, Any]:
    """Return the JSON form of a filter that is written as text.

    Raises RejectedRequest `invalid_filter`, whose message names the character, counted from 1.
    """
    if len(text) > FILTER_TEXT_CHARS_MAX:
        raise RejectedRequest.over(
            "invalid_filter", FILTER_TEXT_CHARS_MAX, len(text), field="filter", unit="characters"
        )
    return _TextParser(_tokens(text)).whole()


def _tokens(text: str) -> list[_Token]:
    tokens = []
    at, end = 0, len(text.rstrip())
    while at < end:
        match = _TOKEN.match(text, at)
        if match is None:
            at += len(text[at:]) - len(text[at:].lstrip())
            hint = " (a string ends with a double quote)" if text[at] == '"' else ""
            _refuse(at, f"cannot read {text[at : at + 20]!r}{hint}")
        name = match.lastgroup or ""
        raw = match[name]
        word = raw.lower() if raw.lower() in _WORDS else ""
        token = _Token(name, raw if name == "sign" else word, raw, match.start(name))
        tokens.append(token)
        at = match.end()
    tokens.append(_Token("end", "", "", end))
    return tokens


class _TextParser:
    """A parser by recursive descent, with one method for each rule of the grammar."""

    def __init__(self, tokens: list[_Token]) -> None:
        self._tokens = tokens
        self._next = 0
        self._nesting = 0

    def whole(self) -> dict[str, Any]:
        found = self._filter()
        if self._token.type != "end":
            self._expected("`and`, `or` or the end")
        return found

    @property
    def _token(self) -> _Token:
        return self._tokens[self._next]

    def _filter(self) -> dict[str, Any]:
        return self._joined("or", lambda: self._joined("and", self._one))

    def _joined(self, word: str, part: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        parts = [part()]
        while self._took(word):
            parts.append(part())
        return {word: parts} if len(parts) > 1 else parts[0]

    def _one(self) -> dict[str, Any]:
        self._nesting += 1
        if self._nesting > NESTING_MAX:
            _refuse(self._token.at, f"too deep: limit {NESTING_MAX} levels", NESTING_MAX)
        try:
            if self._took("not"):
                return {"not": self._one()}
            if self._took("("):
                found = self._filter()
                self._take(")")
                return found
            if self._took("exists"):
                self._take("(")
                field = self._field()
                self._take(")")
                return {"exists": field}
            return self._comparison()
        finally:
            self._nesting -= 1

    def _comparison(self) -> dict[str, Any]:
        field = self._field()
        sign = self._token.text
        if sign not in ("=", "!=", "in", "contains", *_BOUNDS):
            self._expected("=, !=, <, <=, >, >=, `in` or `contains`")
        self._next += 1
        if sign == "in":
            return {"in": {field: self._values()}}
        if sign == "contains":
            return {"contains": {field: self._value()}}
        if sign in _BOUNDS:
            if self._token.type != "number":
                self._expected("a number")
            return {"range": {field: {_BOUNDS[sign]: self._value()}}}
        equals = {"eq": {field: self._value()}}
        return equals if sign == "=" else {"not": equals}

    def _values(self) -> list[Any]:
        self._take("(")
        values = [self._value()]
        while self._took(","):
            values.append(self._value())
        self._take(")")
        return values

    def _value(self) -> Any:
        token = self._token
        if token.text in ("true", "false"):
            self._next += 1
            return token.text == "true"
        if token.type == "word":
            self._expected("a value; a string stands in double quotes")
        if token.type not in ("string", "number"):
            self._expected("a value: a string in double quotes, a number, true or false")
        return self._json()

    def _field(self) -> str:
        token = self._token
        if token.type == "word" and not token.text:
            self._next += 1
            return token.raw
        if token.type != "string":
            self._expected("a field's name" + (", in double quotes" if token.text else ""))
        name = self._json()
        assert isinstance(name, str)
        return name

    def _json(self) -> Any:
        token = self._token
        try:
            value = loads(token.raw)
        except InexactNumberError as error:
            _refuse(token.at, error.number.message, error.number.limit, error.number.value)
        except ValueError:
            _refuse(token.at, f"not a JSON {token.type}: {token.raw[:40]}")
        found = find_inexact(value)
        if found is not None:
            _refuse(token.at, found.message, found.limit, found.value)
        self._next += 1
        return value

    def _took(self, text: str) -> bool:
        found = self._token.text == text
        self._next += found
        return found

    def _take(self, text: str) -> None:
        if not self._took(text):
            self._expected(text)

    def _expected(self, what: str) -> NoReturn:
        token = self._token
        got = "the end" if token.type == "end" else token.raw[:40]
        _refuse(token.at, f"want {what}, got {got}")


def _refuse(at: int, why: str, limit: float | None = None, value: Any = None) -> NoReturn:
    message = f"filter: at character {at + 1}: {why}"
    raise RejectedRequest("invalid_filter", message, field="filter", limit=limit, value=value)
