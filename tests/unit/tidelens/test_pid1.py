"""SIGTERM from a command's first line on, also where it is process 1 of a container."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from contracts.supervision.children import module_command

pytestmark = pytest.mark.timeout(60)

# This stands in for a library that the command imports; it says so, and then hangs.
SLOW = """
import os, time
os.write(1, b"importing")
time.sleep(600)
"""
NAMESPACES = [["unshare", "--pid", "--fork", "--kill-child"]]
NAMESPACES.append([*NAMESPACES[0], "--user", "--map-root-user"])
AS_ONE = "import os, runpy; os.getpid = lambda: 1; runpy.run_module('tidelens', alter_sys=True)"


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    (tmp_path / "click.py").write_text(SLOW)
    paths = [str(tmp_path), str(Path(__file__).parents[3])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}


def ended_by_term(command: list[str], environment: dict[str, str], parents: int = 0) -> int:
    """Exit code of `command`, whose descendant is sent SIGTERM while it imports."""
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment) as process:
        assert process.stdout is not None
        assert process.stdout.read(9) == b"importing"
        target = psutil.Process(process.pid)
        for _ in range(parents):
            (target,) = target.children()
        target.send_signal(signal.SIGTERM)
        try:
            return process.wait(20)
        finally:
            if process.poll() is None:
                target.kill()


def test_a_process_that_is_not_the_first_ends_by_default(environment: dict[str, str]) -> None:
    command = module_command("tidelens", "encode")
    assert ended_by_term(command, environment) == -signal.SIGTERM


def test_the_first_process_has_a_handler_before_anything_is_imported(
    environment: dict[str, str],
) -> None:
    assert ended_by_term([sys.executable, "-c", AS_ONE, "encode"], environment) == 143


def test_the_first_process_of_a_namespace_hears_it(environment: dict[str, str]) -> None:
    """The kernel drops a signal without a handler, so the container went on until it was killed."""
    for namespace in NAMESPACES:
        if subprocess.run([*namespace, "true"], capture_output=True).returncode == 0:
            break
    else:
        pytest.skip("no namespace may be made here")
    command = [*namespace, *module_command("tidelens", "index")]
    assert ended_by_term(command, environment, parents=1) == 143


def test_the_package_imports_nothing_before_that() -> None:
    """The handler comes before every module that the interpreter does not load by itself."""
    program = (
        "import sys; before = set(sys.modules)\n"
        "from tidelens.process import pid1\n"
        "print(*sorted(name for name in set(sys.modules) - before))"
    )
    out = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    slow = {"typing", "click", "asyncio", "importlib.metadata", "contracts", "structlog"}
    assert not slow & set(out.stdout.split())
