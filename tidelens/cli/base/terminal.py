"""The output of commands: lines of text, each on one line of the terminal, and JSON.

Ids, texts and reasons come from strangers. Everything that a command prints goes through here, so
that none of them moves the cursor, forges a line or turns the direction of writing. JSON stays
exact.
"""

import sys
from typing import Any

import click
import orjson

from contracts.characters import escaped, escaped_json


def say(*lines: str, err: bool = False) -> None:
    """Print each line on a line of its own; a line break inside one shows as \\n."""
    stream = sys.stderr if err else sys.stdout
    encoding = getattr(stream, "encoding", None) or "utf-8"
    for line in lines:
        shown = escaped(line).encode(encoding, "backslashreplace").decode(encoding)
        click.echo(shown, err=err)


def say_json(value: Any, *, option: int | None = None) -> None:
    """Print one line of JSON and flush it: a reader may be waiting for it."""
    click.echo(escaped_json(orjson.dumps(value, option=option).decode()).encode())
