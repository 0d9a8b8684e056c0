"""The contents of an installation: the `tidelens` script, and a wheel with all that it reads."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tidelens.__main__ import COMMANDS

ROOT = Path(__file__).parents[3]
SCRIPT = Path(sys.executable).with_name("tidelens")
ROOMS = {"contracts", "index_store", "streams", "consumers", "api", "training", "tidelens"}


def ran(folder: Path, *arguments: str | Path, **environment: str) -> str:
    """Run a program in `folder`, where no module of Tidelens is, and return what it wrote."""
    done = subprocess.run(
        arguments,
        cwd=folder,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_script_runs_anywhere(tmp_path: Path) -> None:
    told = ran(tmp_path, SCRIPT, "--help")
    assert told.startswith("Usage: tidelens ")
    listed = {line.split()[0] for line in told.splitlines() if line.strip()}
    assert listed >= COMMANDS.keys()
    shown = ran(tmp_path, SCRIPT, "config", TIDELENS_PORT="8123").splitlines()
    assert "TIDELENS_PORT=8123  (environment)" in shown


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Return the files of the wheel, built without a network."""
    folder = tmp_path_factory.mktemp("wheel")
    ran(ROOT, sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", folder)
    [path] = folder.glob("tidelens-*.whl")
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def test_the_wheel_holds_the_rooms_whole_and_nothing_else(wheel: dict[str, bytes]) -> None:
    ours = {
        path.relative_to(ROOT).as_posix(): path.read_bytes()
        for room in ROOMS
        for path in (ROOT / room).rglob("*")
        if path.is_file() and path.parent.name != "__pycache__"
    }
    packed = {name: data for name, data in wheel.items() if ".dist-info/" not in name}
    assert packed.keys() == ours.keys()
    assert packed == ours


def test_the_wheel_holds_what_is_read_at_run_time(wheel: dict[str, bytes]) -> None:
    assert wheel.keys() >= {
        "api/static/index.html",
        "api/static/main.js",
        "api/static/page.css",
        "consumers/models/starter/starter_head.safetensors",
        "consumers/models/starter/STARTER_MODEL_CARD.md",
        "contracts/schemas/openapi.json",
        "contracts/schemas/asyncapi.json",
        "contracts/schemas/query.json",
    }
    licences = {Path(name).name for name in wheel if "/licenses/" in name}
    assert licences == {"LICENSE", "NOTICE"}
    [entry_points] = [data for name, data in wheel.items() if name.endswith("entry_points.txt")]
    assert b"tidelens = tidelens.__main__:main" in entry_points
