"""The version numbers of formats: refuse unknown ones, ignore members that newer versions add.

docs/formats.md lists the formats.
"""

from collections.abc import Mapping
from dataclasses import fields
from typing import Any, TypeVar

T = TypeVar("T")


def unknown_version(artefact: str, found: object, *known: int) -> str:
    """Return the error text for an unknown version, which names the versions that can be read."""
    read = " and ".join(map(str, known))
    return (
        f"{artefact}: version {found!r} was written by another version of Tidelens; "
        f"this one reads version {read}"
    )


def version_of(body: Mapping[str, Any]) -> Any:
    """Return the member `version` of a JSON object, or 1 where it is missing."""
    return body.get("version", 1)


def from_members(cls: type[T], body: Mapping[str, Any]) -> T:
    """Make an instance of a dataclass from the members that this version knows.

    Other members are skipped, since a newer version may have added them. Raises TypeError where a
    required member is missing.
    """
    known = {field.name for field in fields(cls)}  # type: ignore[arg-type]
    return cls(**{name: value for name, value in body.items() if name in known})
