"""Every line of a role's log is JSON, and no thread keeps a role from ending."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import orjson
import pytest

from contracts.supervision.children import module_command

pytestmark = pytest.mark.timeout(60)

# Errors that nobody catches, from every part of Python that writes them to stderr.
WRITES = """
import asyncio, logging, multiprocessing, sys, threading, warnings
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from tidelens.process import logs

class Odd:
    def __del__(self):
        raise ValueError("of an object")

def fail(where):
    raise ValueError(where)

def in_child():
    warnings.warn("of a child")
    thread = threading.Thread(target=fail, args=("of a child's thread",))
    thread.start()
    thread.join()

async def forgotten():
    asyncio.get_running_loop().call_exception_handler(
        {"message": "of the loop", "exception": ValueError("x\\ny")}
    )
    task = asyncio.create_task(asyncio.to_thread(fail, "of a task"))
    await asyncio.wait([task])

if __name__ == "__main__":
    prepare = partial(logs.configure_process, "json", "index")
    prepare()
    warnings.warn("of a library\\nin two lines")
    thread = threading.Thread(target=fail, args=("of a thread",))
    thread.start()
    thread.join()
    Odd()
    asyncio.run(forgotten())
    logging.getLogger("aiokafka.consumer").critical("of a client", exc_info=ValueError("a\\nb"))
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context, initializer=prepare) as pool:
        pool.submit(in_child).result()
    fail("of the main thread")
"""

HANGS = """
import asyncio, sys, threading, time
from tidelens import __main__
from tidelens.process import role_process, threads
from tidelens.cli import lag

role_process._THREADS_S = threads._HANG_S = 0.1

def hang():
    time.sleep(600)

async def role():
    asyncio.get_running_loop().run_in_executor(None, hang)
    await asyncio.sleep(0.1)
    return 3

def command(**_):
    threading.Thread(target=hang).start()
    code = role_process.run(role())
    print("closed")
    sys.exit(code)

lag.lag.callback = command
sys.argv = ["tidelens", "lag"]
__main__.main()
"""


def run(program: str, folder: Path) -> subprocess.CompletedProcess[str]:
    script = folder / "program.py"
    script.write_text(program)
    root = str(Path(__file__).parents[3])
    command = [sys.executable, "-c", f"import runpy, sys; sys.path.insert(0, {root!r})"]
    command[-1] += f"; runpy.run_path({str(script)!r}, run_name='__main__')"
    return subprocess.run(command, capture_output=True, text=True, timeout=50)


def test_every_line_is_json(tmp_path: Path) -> None:
    script = tmp_path / "program.py"
    script.write_text(WRITES)
    done = subprocess.run(
        [sys.executable, str(script)],
        capture_output=True,
        text=True,
        timeout=50,
        env={"PYTHONPATH": str(Path(__file__).parents[3]), "PATH": ""},
    )
    lines: list[dict[str, Any]] = [orjson.loads(line) for line in done.stderr.splitlines()]
    told = "\n".join(line["event"] + str(line.get("exception")) for line in lines)
    for what in (
        "a library\nin two lines",
        "a thread",
        "an object",
        "the loop",
        "a task",
        "a client",
        "a child",
        "a child's thread",
        "the main thread",
    ):
        assert f"of {what}" in told, what
    assert {line["role"] for line in lines} == {"index"}
    assert (done.returncode, done.stdout) == (1, "")


def test_threads_that_hang_do_not_hold_up_the_end(tmp_path: Path) -> None:
    """The interpreter does not wait for a thread that hangs, such as one at a name server."""
    done = run(HANGS, tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (3, "closed\n", "")


@pytest.mark.parametrize(("form", "is_json"), [("json", True), ("auto", True), ("human", False)])
def test_the_last_line_of_a_role_is_like_the_others(
    form: str, is_json: bool, tmp_path: Path
) -> None:
    """This holds where the settings themselves are wrong, before anything was logged."""
    done = subprocess.run(
        module_command("tidelens", "index"),
        capture_output=True,
        text=True,
        env={
            "PYTHONPATH": str(Path(__file__).parents[3]),
            "TIDELENS_LOG_FORMAT": form,
            "TIDELENS_PORT": "many",
            "XDG_DATA_HOME": str(tmp_path),
        },
        timeout=50,
    )
    (line,) = done.stderr.splitlines()
    said = orjson.loads(line)["event"] if is_json else line.removeprefix("tidelens: ")
    assert said.startswith("TIDELENS_PORT")
    assert done.returncode == 2
