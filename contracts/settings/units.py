"""Units of the settings, and the mark of a basic one.

They stand in the type of a field, as in `port: Basic[int]`, `index_wait_ms: Milliseconds` and
`encode_batch_pictures: Annotated[int, Unit("pictures")]`.
"""

from dataclasses import dataclass
from typing import Annotated, TypeVar

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Unit:
    """The unit of a number, or the things that it counts, as shown after the number."""

    name: str


@dataclass(frozen=True, slots=True)
class BasicMark:
    """Marks a setting that many installations change; every other setting is an advanced one."""


Basic = Annotated[T, BasicMark()]
Seconds = Annotated[float, Unit("s")]
Milliseconds = Annotated[int, Unit("ms")]
Bytes = Annotated[int, Unit("bytes")]
Mebibytes = Annotated[int, Unit("MiB")]
Pixels = Annotated[int, Unit("pixels")]
