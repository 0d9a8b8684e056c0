"""Values, bounds and defaults of settings as a person reads them."""

from collections.abc import Mapping
from typing import Any

import orjson

from contracts.settings.bounds import GIB, MIB
from contracts.settings.description import SettingDescription

_LIST = "list of "


def values_in_words(setting: SettingDescription) -> str:
    """Return what a setting may be, as in `integer, 1 to 4096 pictures`."""
    return _values(setting.type, setting.bounds, setting.unit)


def default_in_words(setting: SettingDescription) -> str:
    """Return the default as it would stand in the environment, or `unset`."""
    if setting.default is None:
        return "unset"
    if setting.default == "":
        return "empty"
    size = f" ({_size(setting.default)})" if setting.unit == "bytes" else ""
    return in_environment(setting.default) + size


def in_environment(value: object) -> str:
    """Return a value as it would be written into the environment; None is the empty text."""
    if value is None or isinstance(value, str):
        return value or ""
    return orjson.dumps(value).decode()


def _values(type_: str, bounds: Mapping[str, Any], unit: str | None = None) -> str:
    if type_ == "choice":
        return f"one of {', '.join(bounds['choices'])}"
    if type_ == "boolean":
        return "true or false"
    if type_.startswith(_LIST):
        each = _values(type_.removeprefix(_LIST), bounds.get("each", {}))
        return f"JSON list, {_length(bounds, 'entries')}, each: {each}"
    if "maximum" in bounds:
        return " ".join(filter(None, (f"{type_}, {_range(bounds)}", unit)))
    return ", ".join(filter(None, (type_, _length(bounds, "characters"), _pattern(bounds))))


def _range(bounds: Mapping[str, Any]) -> str:
    most = _figure(bounds["maximum"])
    if "above" in bounds:
        return f"above {_figure(bounds['above'])}, at most {most}"
    return f"{_figure(bounds['minimum'])} to {most}"


def _length(bounds: Mapping[str, Any], of: str) -> str:
    key = "length" if of == "characters" else of
    if f"{key}_max" not in bounds:
        return ""
    least = bounds.get(f"{key}_min")
    most = f"{bounds[f'{key}_max']} {of}"
    return f"at most {most}" if least is None else f"{least} to {most}"


def _pattern(bounds: Mapping[str, Any]) -> str:
    return f"pattern {bounds['pattern']}" if "pattern" in bounds else ""


def _figure(number: float) -> str:
    return str(int(number)) if number == int(number) else str(number)


def _size(size: int) -> str:
    return f"{size // GIB} GiB" if size % GIB == 0 else f"{size / MIB:g} MiB"
