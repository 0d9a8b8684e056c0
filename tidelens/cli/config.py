"""`tidelens config`: the settings by group, with value, origin, bounds, default and meaning."""

import os
import shutil
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Any

import click

from tidelens.cli.base.command import Argument, Command, Example
from tidelens.cli.base.options import json_option
from tidelens.cli.base.terminal import say, say_json

if TYPE_CHECKING:
    from contracts.settings.description import SettingDescription

_HIDDEN = "********"
_WIDTH_MAX = 100
_INDENT = "    "


@dataclass(frozen=True, slots=True)
class _Row:
    """A setting and what it is here; `value` is as JSON has it, and hidden if it is a secret."""

    setting: "SettingDescription"
    value: Any
    origin: str

    @property
    def is_shown(self) -> bool:
        """True if it is shown without --all: a basic setting, or an advanced one that is set."""
        return self.setting.basic or self.origin != "default"


@click.command(
    cls=Command,
    examples=[
        Example("tidelens config", "Show the basic settings, and advanced ones that are set."),
        Example("tidelens config encode_ahead_mb", "Explain one setting."),
    ],
)
@click.argument(
    "name",
    cls=Argument,
    required=False,
    help="Setting to explain: the name of its variable, with or without TIDELENS_.",
)
@click.option("--all", "show_all", is_flag=True, help="Show every advanced setting too.")
@json_option
def config(name: str | None, show_all: bool, as_json: bool) -> None:
    """Show the settings by group, or explain one of them.

    The basic settings are shown, and advanced ones that are set. --json has every setting unless
    NAME is given.
    """
    rows = list(_rows())
    if name is not None:
        rows = [_named(name, rows)]
    if as_json:
        say_json([_json(row) for row in rows])
    elif name is not None:
        say(*_explained(rows[0]))
    else:
        _show(rows if show_all else [row for row in rows if row.is_shown], len(rows))


def _rows() -> Iterator[_Row]:
    """Yield every setting with its value. Raises ConfigurationError for a value that is wrong."""
    from contracts.settings import KafkaSettings, load, load_kafka
    from contracts.settings.description import describe_settings
    from contracts.settings.variables import is_kubernetes_service

    settings, kafka = load(), load_kafka()
    plain = {False: settings.model_dump(mode="json"), True: kafka.model_dump(mode="json")}
    # pydantic-settings takes the variables in any case.
    given = {
        name.upper() for name, text in os.environ.items() if not is_kubernetes_service(name, text)
    }
    for setting in describe_settings():
        value = plain[setting.group.settings is KafkaSettings][setting.field]
        hidden = setting.type == "secret" and value is not None
        origin = "environment" if setting.name in given else "default"
        yield _Row(setting, _HIDDEN if hidden else value, origin)


def _named(name: str, rows: Sequence[_Row]) -> _Row:
    from contracts.errors import ConfigurationError
    from contracts.settings.variables import PREFIX, advice

    variable = f"{PREFIX}{name.upper().removeprefix(PREFIX)}"
    known = {row.setting.name: row for row in rows}
    if variable not in known:
        raise ConfigurationError(f"no setting is named {name}; {advice(variable, known)}")
    return known[variable]


def _json(row: _Row) -> dict[str, Any]:
    setting = row.setting
    return {
        "name": setting.name,
        "group": setting.group.name,
        "basic": setting.basic,
        "type": setting.type,
        "unit": setting.unit,
        "bounds": setting.bounds,
        "default": setting.default,
        "value": row.value,
        "origin": row.origin,
        "description": setting.description,
    }


def _show(rows: Sequence[_Row], count: int) -> None:
    from contracts.settings.words import default_in_words, values_in_words

    for group, its_rows in groupby(rows, key=lambda row: row.setting.group):
        say(f"# {group.title} (read by: {', '.join(group.read_by)})", "")
        for row in its_rows:
            setting = row.setting
            default = default_in_words(setting)
            say(_assigned(row), *_wrapped(setting.description))
            say(*_wrapped(f"[{values_in_words(setting)}; default: {default}]"), "")
    if hidden := count - len(rows):
        say(
            f"{hidden} advanced settings are at their defaults; `tidelens config --all` shows them."
        )


def _explained(row: _Row) -> Iterator[str]:
    from contracts.settings.words import default_in_words, values_in_words

    setting = row.setting
    yield _assigned(row)
    yield from _wrapped(setting.description)
    yield from ("", f"{_INDENT}values   {values_in_words(setting)}")
    yield f"{_INDENT}default  {default_in_words(setting)}"
    yield f"{_INDENT}group    {setting.group.title} ({'basic' if setting.basic else 'advanced'})"
    yield f"{_INDENT}read by  {', '.join(setting.group.read_by)}"


def _assigned(row: _Row) -> str:
    from contracts.settings.words import in_environment

    origin = "" if row.origin == "default" else f"  ({row.origin})"
    return f"{row.setting.name}={in_environment(row.value)}{origin}"


def _wrapped(text: str) -> list[str]:
    width = min(shutil.get_terminal_size().columns, _WIDTH_MAX)
    return textwrap.wrap(text, width, initial_indent=_INDENT, subsequent_indent=_INDENT)
