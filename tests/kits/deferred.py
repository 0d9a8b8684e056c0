"""Stand-ins for modules that take seconds to import, such as those that need torch."""

from importlib import import_module
from typing import Any


class Deferred:
    """A module that is imported when a test reads the first of its names.

    pytest looks at every name of a test module while it collects, in each of its processes.
    """

    __slots__ = ("_module",)

    def __init__(self, module: str) -> None:
        self._module = module

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(import_module(self._module), name)
