"""The file by which other commands find a running `tidelens up`: its broker, its HTTP address.

`up` writes DATA/run.json and removes it when it ends. After a `kill -9` the file stays behind,
so a reader trusts it only while the process that wrote it runs.
"""

import contextlib
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import orjson

from contracts.atomic_write import atomic_write
from contracts.errors import ConfigurationError
from contracts.events.format_version import from_members, unknown_version, version_of
from contracts.settings import Settings

_FILE = "run.json"
# A file without a member `version` has the first version.
VERSION = 1
_MODEL_FILE = "active-model"
DEFAULT_BROKERS = "127.0.0.1:9092"

# Hosts that stand for every address of this machine, and the address to ask instead.
_EVERYWHERE = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}


@dataclass(frozen=True, slots=True)
class Runtime:
    """The addresses and processes of one running `up`.

    `url` is the API's, `metrics_port` the encoder's (0: none), `children` are pids by role.
    `collection` and `security` are those of tidelens/cli/base/collection_choice.py, empty where an
    older version runs.
    """

    brokers: str
    url: str
    pid: int
    space: str
    model: str
    metrics_port: int
    children: Mapping[str, int] = field(default_factory=dict)
    collection: Mapping[str, Any] = field(default_factory=dict)
    security: Mapping[str, Any] = field(default_factory=dict)

    def write(self, data: Path) -> None:
        """Write DATA/run.json whole or not at all, since readers come at any time."""
        # It is useless once this process has ended, so it need not survive a crash of the machine.
        body = orjson.dumps({"version": VERSION, **asdict(self)})
        atomic_write(data / _FILE, body, durable=False)

    @classmethod
    def read(cls, data: Path) -> "Runtime | None":
        """Return the `up` that runs on the data directory, or None if none does.

        An unreadable file also gives None. Raises ConfigurationError for a file of a newer version.
        """
        try:
            body = orjson.loads((data / _FILE).read_bytes())
            if not _alive(body["pid"]):
                return None
            if (found := version_of(body)) != VERSION:
                raise ConfigurationError(unknown_version(str(data / _FILE), found, VERSION))
            return from_members(cls, body)._checked()
        except (OSError, ValueError, TypeError, KeyError, AttributeError, OverflowError):
            return None

    @staticmethod
    def stale_file_problem(data: Path) -> str | None:
        """Return why `read` returned None although there is a file, or None if there is none."""
        path = data / _FILE
        try:
            pid = orjson.loads(path.read_bytes())["pid"]
            return f"{path} was left behind by an `up` that does not run any more (pid {pid})"
        except FileNotFoundError:
            return None
        except (OSError, ValueError, TypeError, KeyError):
            return f"{path} cannot be read"

    def _checked(self) -> "Runtime":
        """Raise TypeError where a member has another type, as in a file of another program."""
        texts = (self.brokers, self.url, self.space, self.model)
        objects = (self.children, self.collection, self.security)
        if not all(isinstance(text, str) for text in texts):
            raise TypeError("some members must be texts")
        if not all(isinstance(members, dict) for members in objects):
            raise TypeError("some members must be objects")
        return self

    @staticmethod
    def remove(data: Path) -> None:
        """Remove the file if this process wrote it."""
        runtime = Runtime.read(data)
        if runtime is not None and runtime.pid == os.getpid():
            with contextlib.suppress(OSError):
                (data / _FILE).unlink()


class RunFile:
    """DATA/run.json of this process, written once all is up and at each change of a child."""

    def __init__(self, data: Path) -> None:
        self._data = data
        self._children: dict[str, int] = {}
        self._runtime: Runtime | None = None

    def write(self, runtime: Runtime) -> None:
        """Write the file, with the children recorded so far. Raises OSError."""
        self._runtime = replace(runtime, children=self._children)
        self._runtime.write(self._data)

    def child(self, role: str, pid: int | None) -> None:
        """Record the process that has this role from now on, or None after it ended."""
        if pid is not None:
            self._children[role] = pid
        else:
            self._children.pop(role, None)
        if self._runtime is not None:
            # A full disk must not end `up`: the older file still names this process.
            with contextlib.suppress(OSError):
                self.write(self._runtime)

    def remove(self) -> None:
        """Remove the file; children that are recorded later do not bring it back."""
        self._runtime = None
        Runtime.remove(self._data)


def model_of(settings: Settings) -> str:
    """Return the model of queries before the first switch: a running `up`'s, or the settings'."""
    runtime = Runtime.read(settings.data)
    return runtime.model if runtime else settings.model


def url_of(host: str, port: int) -> str:
    """Return the URL by which this machine reaches a server that listens on the address."""
    reached = _EVERYWHERE.get(host, host)
    return f"http://[{reached}]:{port}" if ":" in reached else f"http://{reached}:{port}"


def remember_model(data: Path, model: str | None) -> None:
    """Save the active space's model, which the next start loads first; None removes it."""
    path = data / _MODEL_FILE
    if model is None:
        path.unlink(missing_ok=True)
    elif model != remembered_model(data):
        # Several nodes may share the directory, and another may read the file just now.
        atomic_write(path, model.encode())


def remembered_model(data: Path) -> str | None:
    """Return the model that was saved, or None; another space may be active by now."""
    try:
        return (data / _MODEL_FILE).read_text() or None
    except (OSError, UnicodeDecodeError):
        return None


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True  # It belongs to another user, but runs.
    return True
