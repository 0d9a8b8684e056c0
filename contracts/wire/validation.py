"""Validation errors as text: the member that is wrong, the reason, its limit and its value.

Every parser of the contracts reports the first error of pydantic through `first_error`, so that
HTTP, WebSocket, Kafka and JSON Lines name the same field for the same mistake. A union is
discriminated by the form of the input (`discriminate_by`), so that only the intended alternative is
checked. Without a discriminator, pydantic reports the mistakes of all alternatives, and the first
of them is rarely about the intended one.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import Discriminator, ValidationError
from pydantic_core import ErrorDetails, PydanticCustomError

from contracts.wire.exact_json import InexactNumber

# The names that pydantic gives to limits.
_LIMITS = ("limit", "max_length", "min_length", "le", "lt", "ge", "gt", "expected", "pattern")
_VALUE_CHARS_MAX = 100
_OBJECTS = {"model_type", "model_attributes_type", "dict_type"}
_TAGS = {"union_tag_invalid", "union_tag_not_found"}
_NAMES = {str: "a string", bool: "a boolean", int: "a number", float: "a number", list: "a list"}


@dataclass(frozen=True, slots=True)
class ValidationFault:
    """The first mistake in an input. `field` is its dotted path, empty for the whole input.

    `limit` and `value` are None where there is none to name.
    """

    field: str
    message: str
    limit: Any = None
    value: Any = None


def member_error(field: str, message: str) -> PydanticCustomError:
    """Return the error of a model's own check; `message` is about its member `field`."""
    return PydanticCustomError("wrong_member", "{message}", {"field": field, "message": message})


def inexact_number_error(number: InexactNumber) -> PydanticCustomError:
    """Return the error for a number in a member of a model that cannot be read exactly."""
    about = {"field": number.field, "limit": number.limit, "value": number.value}
    return PydanticCustomError("wrong_member", "{message}", {**about, "message": number.message})


def limit_error(limit: int, what: str, value: int) -> PydanticCustomError:
    """Return the error of a model's own limit: at most `limit` of `what`, but `value` given."""
    return PydanticCustomError(
        "over_limit",
        "limit {limit} {what}, got {value}",
        {"limit": limit, "what": what, "value": value},
    )


def discriminate_by(choose: Callable[[Any], str | None], want: str) -> Discriminator:
    """Return a discriminator that asks `choose` for the tag of an input.

    `choose` returns None for an input that fits no alternative; the error then says that `want`,
    which names the alternatives, was expected.
    """
    return Discriminator(
        choose, custom_error_type="wrong_type", custom_error_message=f"want {want}"
    )


def first_error(error: ValidationError, body: Any) -> ValidationFault:
    """Return the first mistake that pydantic found in `body`, with its path in `body`."""
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
    return ValidationFault(".".join(path), _message(first, value), limit, value)


def _wrong_tag(first: ErrorDetails, path: list[str]) -> ValidationFault:
    """Return the fault of the member that names the type of a message, such as `op`."""
    context = first["ctx"]
    field = ".".join([*path, context["discriminator"].strip("'")])
    if "expected_tags" not in context:
        return ValidationFault(field, "Field required")
    wanted, got = context["expected_tags"], context["tag"][:_VALUE_CHARS_MAX]
    return ValidationFault(field, f"want one of {wanted}, got {got!r}", wanted, got)


def _path(first: ErrorDetails, body: Any) -> list[str]:
    """Return the location of an error without the tags of unions, which are not in `body`."""
    path: list[str] = []
    at = body
    for part in first["loc"]:
        found, at = _member(at, part)
        if found or (first["type"] == "missing" and part is first["loc"][-1]):
            path.append(str(part))
    return path


def _member(of: Any, part: str | int) -> tuple[bool, Any]:
    """Return whether `of` has the member `part`, and that member, or `of` itself if not."""
    if isinstance(of, Mapping) and part in of:
        return True, of[part]
    if isinstance(of, list) and isinstance(part, int) and part < len(of):
        return True, of[part]
    return False, of


def _message(first: ErrorDetails, value: Any) -> str:
    message = first["msg"].removeprefix("Value error, ")
    if first["type"] in _OBJECTS:
        return f"want a JSON object, got {_described(first['input'])}"
    if first["type"] == "wrong_type":
        return f"{message}, got {_described(first['input'])}"
    if value is None or "value" in first.get("ctx", {}):
        return message
    if first["type"].endswith(("too_long", "too_short")):
        return _length_message(first, value)
    return f"{message}, got {value!r}"


def _length_message(first: ErrorDetails, value: int) -> str:
    """Return the error text for a length, with its limit."""
    context = first["ctx"]
    what = "character" if first["type"].startswith("string") else "item"
    bound = context["max_length" if "max_length" in context else "min_length"]
    unit = what if bound == 1 else f"{what}s"
    if "max_length" in context:
        return f"limit {bound} {unit}, got {value}"
    return f"want at least {bound} {unit}, got {value}"


def _described(value: Any) -> str:
    if isinstance(value, Mapping):
        return f"an object with {', '.join(map(str, list(value)[:5])) or 'no members'}"
    return "null" if value is None else _NAMES.get(type(value), type(value).__name__)


def _shown_value(first: ErrorDetails) -> Any:
    """Return the value, or its length where the limit is a length."""
    value = first["input"]
    if first["type"].endswith(("too_long", "too_short")):
        return len(value)
    if isinstance(value, str):
        return value[:_VALUE_CHARS_MAX]
    return value if isinstance(value, bool | int | float) else None
