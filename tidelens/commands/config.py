"""`tidelens config`: every setting with its value, where that came from, and what it means."""

import os
from collections.abc import Iterator
from typing import Any

import click
import orjson
from pydantic import SecretStr
from pydantic_settings import BaseSettings

from contracts.variables import of_kubernetes
from tidelens.options import json_option
from tidelens.terminal import say, say_json

_HIDDEN = "********"


@click.command()
@json_option
def config(as_json: bool) -> None:
    """Show every setting: variable, value, origin (default or environment) and meaning."""
    from contracts.settings import load, load_kafka

    rows = [*_rows(load()), *_rows(load_kafka())]
    if as_json:
        say_json(rows)
        return
    for row in rows:
        value = "" if row["value"] is None else row["value"]
        origin = "" if row["origin"] == "default" else f"  ({row['origin']})"
        say(f"{row['variable']}={_shown(value)}{origin}")
        say(f"    {row['meaning']}")


def _rows(settings: BaseSettings) -> Iterator[dict[str, Any]]:
    prefix = str(settings.model_config["env_prefix"])
    # pydantic-settings takes the variables in any case.
    given = {n.upper() for n, text in os.environ.items() if not of_kubernetes(n, text)}
    plain = settings.model_dump(mode="json")
    for name, info in type(settings).model_fields.items():
        value = getattr(settings, name)
        variable = f"{prefix}{name.upper()}"
        yield {
            "variable": variable,
            "value": _HIDDEN if isinstance(value, SecretStr) else plain[name],
            "origin": "environment" if variable in given else "default",
            "meaning": info.description,
        }


def _shown(value: object) -> str:
    """As it would be written into the environment."""
    return value if isinstance(value, str) else orjson.dumps(value).decode()
