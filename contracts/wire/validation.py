"""Validation errors in words: the member that is wrong, why, its limit and its value.

Every parser of the contracts reports the first error of pydantic through `first_fault`, so that
HTTP, WebSocket, Kafka and JSON Lines name the same field for the same mistake. Unions are
discriminated by the form of the input (`tagged`), so that only the alternative that was meant is
checked: an undiscriminated union reports the mistakes of all its alternatives, and the first of
them is rarely about the one that was meant.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import Discriminator, ValidationError
from pydantic_core import ErrorDetails, PydanticCustomError

from contracts.wire.exact_json import Beyond

# Names that pydantic gives to the bound that a value broke.
_LIMITS = ("limit", "max_length", "min_length", "le", "lt", "ge", "gt", "expected", "pattern")
_VALUE_CHARS_MAX = 100
_OBJECTS = {"model_type", "model_attributes_type", "dict_type"}
_TAGS = {"union_tag_invalid", "union_tag_not_found"}
_NAMES = {str: "a string", bool: "a boolean", int: "a number", float: "a number", list: "a list"}


@dataclass(frozen=True, slots=True)
class Fault:
    """The first mistake of an input. `field` is a dotted path, empty where it is the whole input.

    `limit` and `value` are None if there are none to name.
    """

    field: str
    message: str
    limit: Any = None
    value: Any = None


def wrong(field: str, message: str) -> PydanticCustomError:
    """Return the error of a model's own check: `message` is about its member `field`."""
    return PydanticCustomError("wrong_member", "{message}", {"field": field, "message": message})


def inexact(found: Beyond) -> PydanticCustomError:
    """Return the error of a number in a model's member that would not be kept exactly."""
    about = {"field": found.field, "limit": found.limit, "value": found.value}
    return PydanticCustomError("wrong_member", "{message}", {**about, "message": found.message})


def over(limit: int, what: str, value: int) -> PydanticCustomError:
    """Return the error of a model's own bound: at most `limit` of `what`, but `value` came."""
    return PydanticCustomError(
        "over_limit",
        "limit {limit} {what}, got {value}",
        {"limit": limit, "what": what, "value": value},
    )


def tagged(choose: Callable[[Any], str | None], want: str) -> Discriminator:
    """Discriminate a union by `choose`, which returns a tag, or None if the input fits none.

    `want` names the alternatives in the error.
    """
    return Discriminator(
        choose, custom_error_type="wrong_type", custom_error_message=f"want {want}"
    )


def first_fault(error: ValidationError, body: Any) -> Fault:
    """Return the first mistake that pydantic found in `body`, by the path that its sender knows."""
    first = error.errors(include_url=False)[0]
    path = _path(first, body)
    context = first.get("ctx", {})
    if first["type"] == "wrong_member":
        path.append(str(context["field"]))
    elif first["type"] in _TAGS:
        return _wrong_tag(first, path)
    limit = next((context[name] for name in _LIMITS if name in context), None)
    value = context.get("value")
    if value is None and limit is not None:
        value = _shown_value(first)
    return Fault(".".join(path), _message(first, value), limit, value)


def _wrong_tag(first: ErrorDetails, path: list[str]) -> Fault:
    """Name the member that says which kind of message it is, such as `op`."""
    context = first["ctx"]
    field = ".".join([*path, context["discriminator"].strip("'")])
    if "expected_tags" not in context:
        return Fault(field, "Field required")
    wanted, got = context["expected_tags"], context["tag"][:_VALUE_CHARS_MAX]
    return Fault(field, f"want one of {wanted}, got {got!r}", wanted, got)


def _path(first: ErrorDetails, body: Any) -> list[str]:
    """Return pydantic's location without the tags of unions, which no sender wrote."""
    path: list[str] = []
    at = body
    for part in first["loc"]:
        found, at = _member(at, part)
        if found or (first["type"] == "missing" and part is first["loc"][-1]):
            path.append(str(part))
    return path


def _member(of: Any, part: str | int) -> tuple[bool, Any]:
    """Return whether `of` has the member `part`, and the member, or `of` itself if not."""
    if isinstance(of, Mapping) and part in of:
        return True, of[part]
    if isinstance(of, list) and isinstance(part, int) and part < len(of):
        return True, of[part]
    return False, of


def _message(first: ErrorDetails, value: Any) -> str:
    message = first["msg"].removeprefix("Value error, ")
    if first["type"] in _OBJECTS:
        return f"want a JSON object, got {_kind(first['input'])}"
    if first["type"] == "wrong_type":
        return f"{message}, got {_kind(first['input'])}"
    if value is None or "value" in first.get("ctx", {}):
        return message
    if first["type"].endswith(("too_long", "too_short")):
        return _length_message(first, value)
    return f"{message}, got {value!r}"


def _length_message(first: ErrorDetails, value: int) -> str:
    """Name the bound of a length and the length that came."""
    context = first["ctx"]
    what = "character" if first["type"].startswith("string") else "item"
    bound = context["max_length" if "max_length" in context else "min_length"]
    unit = what if bound == 1 else f"{what}s"
    if "max_length" in context:
        return f"limit {bound} {unit}, got {value}"
    return f"want at least {bound} {unit}, got {value}"


def _kind(value: Any) -> str:
    if isinstance(value, Mapping):
        return f"an object with {', '.join(map(str, list(value)[:5])) or 'no members'}"
    return "null" if value is None else _NAMES.get(type(value), type(value).__name__)


def _shown_value(first: ErrorDetails) -> Any:
    """Return the value, or its length if the limit is about that."""
    value = first["input"]
    if first["type"].endswith(("too_long", "too_short")):
        return len(value)
    if isinstance(value, str):
        return value[:_VALUE_CHARS_MAX]
    return value if isinstance(value, bool | int | float) else None
