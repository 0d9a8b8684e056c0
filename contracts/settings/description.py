"""Types, units, bounds and defaults of the settings, read from the fields that enforce them.

Bounds come from pydantic's JSON Schema of the group, so they are those that a value is checked
against.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic.fields import FieldInfo
from pydantic_core import to_jsonable_python

from contracts.settings.environment import variable_of
from contracts.settings.groups import GROUPS, Group
from contracts.settings.units import BasicMark, Unit

_TYPES = {"integer": "integer", "number": "number", "boolean": "boolean", "string": "text"}
_FORMATS = {"path": "path", "password": "secret"}
# Keys of JSON Schema, and the keys of `bounds` that say the same.
_BOUNDS = {
    "minimum": "minimum",
    "exclusiveMinimum": "above",
    "maximum": "maximum",
    "minLength": "length_min",
    "maxLength": "length_max",
    "minItems": "entries_min",
    "maxItems": "entries_max",
    "pattern": "pattern",
    "enum": "choices",
}


@dataclass(frozen=True, slots=True)
class SettingDescription:
    """One setting. `name` is that of its variable, and `field` the one in code.

    `bounds` has those of minimum, above (not itself allowed), maximum, length_max, entries_min,
    entries_max, pattern and choices that there are, and in `each` those of a list's entries.
    """

    name: str
    field: str
    group: Group
    basic: bool
    type: str
    unit: str | None
    bounds: Mapping[str, Any]
    default: Any
    description: str


def describe_settings() -> list[SettingDescription]:
    """Return every setting, group by group, the basic ones of each group first."""
    return [setting for group in GROUPS for setting in settings_of(group)]


def settings_of(group: Group) -> list[SettingDescription]:
    """Return the settings of one group, the basic ones first."""
    settings = list(_describe(group))
    return sorted(settings, key=lambda setting: not setting.basic)


def _describe(group: Group) -> Iterator[SettingDescription]:
    schemas = group.settings.model_json_schema()["properties"]
    for name, info in group.settings.model_fields.items():
        schema = _not_null(schemas[name])
        yield SettingDescription(
            name=variable_of(group.settings, name),
            field=name,
            group=group,
            basic=any(isinstance(mark, BasicMark) for mark in info.metadata),
            type=_type(schema),
            unit=_unit(info),
            bounds=_bounds(schema),
            default=to_jsonable_python(info.get_default(call_default_factory=True)),
            description=info.description or "",
        )


def _unit(info: FieldInfo) -> str | None:
    return next((mark.name for mark in info.metadata if isinstance(mark, Unit)), None)


def _not_null(schema: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the schema of a value that is set."""
    choices = [each for each in schema.get("anyOf", ()) if each["type"] != "null"]
    return choices[0] if choices else schema


def _type(schema: Mapping[str, Any]) -> str:
    if "enum" in schema:
        return "choice"
    if schema["type"] == "array":
        return f"list of {_type(schema['items'])}"
    return _FORMATS.get(schema.get("format", ""), _TYPES[schema["type"]])


def _bounds(schema: Mapping[str, Any]) -> dict[str, Any]:
    bounds = {name: schema[key] for key, name in _BOUNDS.items() if key in schema}
    if "items" in schema and (each := _bounds(schema["items"])):
        bounds["each"] = each
    return bounds
