"""How readers treat what a newer version wrote; docs/formats.md lists the formats."""

from collections.abc import Mapping
from dataclasses import fields
from typing import Any, TypeVar

T = TypeVar("T")


def unknown(artefact: str, found: object, *known: int) -> str:
    """Return the one sentence that names the artefact, its version, and the versions read here."""
    read = " and ".join(map(str, known))
    return (
        f"{artefact}: version {found!r} was written by another version of Tidelens; "
        f"this one reads version {read}"
    )


def version_of(body: Mapping[str, Any]) -> Any:
    """Return the member `version` of a JSON object; an object without it has version 1."""
    return body.get("version", 1)


def made(kind: type[T], body: Mapping[str, Any]) -> T:
    """Make a dataclass of the members that this version knows; a newer one may have added some.

    Raises TypeError where one that is needed is missing.
    """
    known = {field.name for field in fields(kind)}  # type: ignore[arg-type]
    return kind(**{name: value for name, value in body.items() if name in known})
