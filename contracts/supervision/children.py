"""The commands of our child processes, which import our modules wherever they are started."""

import sys


def module_command(module: str, *arguments: str) -> list[str]:
    """Return the command that runs `module` in a process of its own.

    `python -m` alone puts the working directory first on the import path, where a user's own
    folder `streams/` would hide our package of that name; `-P` leaves it out.
    """
    return [sys.executable, "-P", "-m", module, *arguments]
