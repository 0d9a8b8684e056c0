"""Open files below allowed folders, without a race in which a link could lead out of them.

Comparing a path with the allowed folders is not enough: a stranger who may write below one of them
can replace any folder by a link before the file is opened. So all links are resolved first, the
result is compared with the allowed folders, and that path is then walked one folder at a time
without following any link. The file that is opened is the file that was compared.
"""

import errno
import os
import stat
from collections.abc import Sequence
from io import BufferedReader
from pathlib import Path


class OutsideRoots(Exception):
    """The path leads out of every allowed folder."""


class NotRegular(OSError):
    """The path leads to a folder, a pipe, a socket or a device."""


def resolved_under(path: Path, roots: Sequence[Path]) -> Path:
    """Return `path` with every link resolved. Raise OutsideRoots unless it is below a root.

    The file need not exist. Raises OSError where links go in a circle or no file can have such a
    name.
    """
    try:
        real = path.resolve()
    except RuntimeError:
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(path)) from None
    except ValueError:
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL), str(path)) from None
    if not any(real.is_relative_to(root.resolve()) for root in roots):
        raise OutsideRoots
    return real


def open_under(path: Path, roots: Sequence[Path]) -> BufferedReader:
    """Open a regular file below one of `roots`, without ever waiting for the writer of a pipe.

    Raises what `resolved_under` raises, NotRegular, and OSError where the file does not exist or a
    link was put into the path in the meantime.
    """
    found = _walked(resolved_under(path, roots))
    try:
        if not stat.S_ISREG(os.fstat(found).st_mode):
            raise NotRegular("not a regular file")
        # So far only the name was opened (O_PATH): opening a pipe or a device has effects.
        return Path(f"/proc/self/fd/{found}").open("rb")
    finally:
        os.close(found)


def _walked(real: Path) -> int:
    """Return a descriptor (O_PATH) of the path `real`, opened without following any link."""
    held = os.open("/", os.O_PATH)
    for part in real.parts[1:]:
        try:
            # If the part is a link, this opens the link itself, below which nothing can be opened.
            following = os.open(part, os.O_PATH | os.O_NOFOLLOW, dir_fd=held)
        finally:
            os.close(held)
        held = following
    return held
