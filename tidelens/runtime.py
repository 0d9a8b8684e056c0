"""What a running `tidelens up` tells the other commands: its broker and its HTTP address.

`up` writes DATA/run.json and removes it when it ends. After a `kill -9` the file stays behind,
which is why a reader believes it only while the process that wrote it lives.
"""

import contextlib
import os
from dataclasses import asdict, dataclass
from pathlib import Path

import orjson

from contracts.settings import Settings

_FILE = "run.json"
_MODEL_FILE = "active-model"
DEFAULT_BROKERS = "127.0.0.1:9092"


@dataclass(frozen=True, slots=True)
class Runtime:
    """One running `up`."""

    brokers: str
    port: int
    pid: int
    space: str
    model: str

    def write(self, data: Path) -> None:
        """Whole or not at all, since readers come at any time."""
        draft = data / f"{_FILE}.{self.pid}"
        draft.write_bytes(orjson.dumps(asdict(self)))
        draft.replace(data / _FILE)

    @classmethod
    def read(cls, data: Path) -> "Runtime | None":
        """None when nothing runs on that data directory."""
        try:
            runtime = cls(**orjson.loads((data / _FILE).read_bytes()))
        except (OSError, orjson.JSONDecodeError, TypeError):
            return None
        return runtime if _alive(runtime.pid) else None

    @staticmethod
    def remove(data: Path) -> None:
        """Remove our own file; another process's stays."""
        runtime = Runtime.read(data)
        if runtime is not None and runtime.pid == os.getpid():
            with contextlib.suppress(OSError):
                (data / _FILE).unlink()


def brokers_of(settings: Settings) -> str:
    """Bootstrap servers for a command: given, else of the running `up`, else Kafka's usual ones."""
    if settings.brokers:
        return settings.brokers
    runtime = Runtime.read(settings.data)
    return runtime.brokers if runtime else DEFAULT_BROKERS


def api_of(settings: Settings) -> str:
    """URL of the API for a command: of the running `up`, else where one would listen."""
    runtime = Runtime.read(settings.data)
    return f"http://127.0.0.1:{runtime.port if runtime else settings.port}"


def remember_model(data: Path, model: str | None) -> None:
    """Of the active space: what the next start loads before it can ask Kafka; None: nothing."""
    path = data / _MODEL_FILE
    if model is None:
        path.unlink(missing_ok=True)
    elif model != remembered_model(data):
        draft = path.with_suffix(".draft")
        draft.write_text(model)
        draft.replace(path)


def remembered_model(data: Path) -> str | None:
    """A guess: the control topic may say otherwise by now."""
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
        return True  # somebody else's, but there
    return True
