"""Child processes import the modules of Tidelens, whatever the working directory contains."""

import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from contracts.supervision.children import module_command

ROOT = Path(__file__).parents[3]
ROOMS = ("contracts", "index_store", "streams", "consumers", "api", "training", "tidelens")
SOURCES = {
    path: path.read_text()
    for room in (*ROOMS, "benchmarks", "tests")
    for path in sorted((ROOT / room).rglob("*.py"))
}
# The modules that the product starts, as its sources name them.
CHILDREN = {
    name
    for path, text in SOURCES.items()
    if path.relative_to(ROOT).parts[0] in ROOMS
    for name in re.findall(r'module_command\(\s*"([\w.]+)"', text)
}


def test_the_product_starts_children_of_these_rooms() -> None:
    rooms = {name.partition(".")[0] for name in CHILDREN}
    assert rooms == {"consumers", "index_store", "streams", "tidelens"}


def test_every_child_is_started_by_that_command() -> None:
    """A plain `-m` lets folders of the working directory hide the modules of Tidelens."""
    ours = re.compile(rf'"-m",\s*"(?:{"|".join((*ROOMS, "benchmarks", "tests"))})\b')
    assert not [path for path, text in SOURCES.items() if ours.search(text)]


@pytest.mark.parametrize("module", sorted(CHILDREN))
def test_a_folder_of_the_user_does_not_hide_ours(module: str, tmp_path: Path) -> None:
    for room in ROOMS:
        (tmp_path / room).mkdir()
        (tmp_path / room / "__init__.py").write_text("raise SystemExit('the folder of the user')")
    # Each module ends with an error of its own, which shows that it was imported.
    done = subprocess.run(
        module_command(module, "no-such-word"),
        cwd=tmp_path,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode != 0
    assert done.stderr
    assert "the folder of the user" not in done.stderr


# A parent that starts a child and is killed, before or after the child has asked to die with it.
PARENT = """
import os, subprocess, sys
child = subprocess.Popen([sys.executable, "-c", sys.argv[1], str(os.getpid())],
                         stdin=subprocess.PIPE, stdout=subprocess.PIPE)
print(child.pid, flush=True)
if sys.argv[2] == "after":
    child.stdout.readline()
os.kill(os.getpid(), 9)
"""
CHILD = """
import os, sys, time
from contracts.supervision.children import die_with_parent
while sys.argv[2:] == ["before"] and os.getppid() == int(sys.argv[1]):
    time.sleep(0.01)
die_with_parent(int(sys.argv[1]))
print("ready", flush=True)
time.sleep(600)
"""


def runs(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_child_dies_with_its_parent(when: str) -> None:
    child = CHILD.replace("sys.argv[2:]", f'["{when}"]')
    started = subprocess.run(
        [sys.executable, "-c", PARENT, child, when], capture_output=True, cwd=ROOT, timeout=60
    )
    assert started.returncode == -signal.SIGKILL
    pid = int(started.stdout)
    deadline = time.monotonic() + 30
    while runs(pid) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not runs(pid)
