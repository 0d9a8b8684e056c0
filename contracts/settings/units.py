"""Units of the settings, and the mark of a basic one; they stand beside the type of a field.

port: Basic[Port] = Field(8080, ...)
index_wait_ms: Milliseconds = Field(200, ...)
encode_batch_pictures: Annotated[int, Unit("pictures")] = Field(32, ...)
"""

from dataclasses import dataclass
from typing import Annotated, TypeVar

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Unit:
    """What a number counts or measures, as it is shown after the number."""

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
