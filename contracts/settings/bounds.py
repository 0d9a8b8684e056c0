"""Bounds and types that several settings share."""

from typing import Annotated

from pydantic import Field, SecretStr

MIB = 1024 * 1024
GIB = 1024 * MIB

# These are far beyond what is sensible: they catch a slip of the keyboard, and nothing overflows.
TEXT_MAX = 4096
NAMES_MAX = 1000
THREADS_MAX = 4096
MEMORY_MB_MAX = 16 * MIB
HOUR_S = 3600.0
YEAR_S = 366 * 24 * HOUR_S
MINUTE_MS = 60_000

Text = Annotated[str, Field(max_length=TEXT_MAX)]
Secret = Annotated[SecretStr, Field(max_length=TEXT_MAX)]
Host = Annotated[str, Field(max_length=255)]
Port = Annotated[int, Field(ge=1, le=65535)]
