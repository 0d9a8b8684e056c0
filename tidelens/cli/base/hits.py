"""Hits and warnings as lines for a terminal."""

from collections.abc import Iterable, Mapping
from typing import Any

from tidelens.cli.base.terminal import say


def line_of(hit: dict[str, Any]) -> str:
    """Return a hit as a line for a terminal, with its rank if it is in a list."""
    shown = hit["text"] or hit["metadata"].get("name") or ""
    rank = f"{hit['rank']:>3}  " if hit["rank"] else ""
    return f"{rank}{hit['score']:.4f}  {hit['id']}  {shown}".rstrip()


def show_warnings(warnings: Iterable[Mapping[str, str]]) -> None:
    """Print warnings on stderr; the answer is right all the same."""
    for warning in warnings:
        say(f"warning: {warning['message']}", err=True)
