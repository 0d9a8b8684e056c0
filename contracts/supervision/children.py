"""The commands of child processes, which import Tidelens's modules from any working directory."""

import sys


def module_command(module: str, *arguments: str) -> list[str]:
    """Return the command that runs `module` in a process of its own.

    `python -m` alone puts the working directory first on the import path, where a folder
    `streams/` of the user would hide the package of that name. `-P` leaves that directory out.
    """
    return [sys.executable, "-P", "-m", module, *arguments]
