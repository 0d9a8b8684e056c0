"""A `tidelens` process that cannot import some packages, as if they were not installed.

python -m tests.kits.hidden_packages PACKAGE,PACKAGE COMMAND...
"""

import runpy
import sys
from collections.abc import Iterable
from importlib.abc import MetaPathFinder


class HidingFinder(MetaPathFinder):
    """Fails the imports of some packages, whatever finders come after it."""

    def __init__(self, packages: Iterable[str]) -> None:
        self._packages = frozenset(packages)

    def find_spec(self, name: str, path: object = None, target: object = None) -> None:
        if name.partition(".")[0] in self._packages:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


if __name__ == "__main__":
    packages, *command = sys.argv[1:]
    sys.meta_path.insert(0, HidingFinder(packages.split(",")))
    sys.argv = ["tidelens", *command]
    runpy.run_module("tidelens", run_name="__main__", alter_sys=True)
