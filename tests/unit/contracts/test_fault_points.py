"""A process dies or stops at the named point, on the n-th pass."""

import os
import signal
import subprocess
import sys

import pytest

PASSES = (
    "from contracts import fault_points as f\nfor n in range(4): f.reach('encode.sent'); print(n)"
)


def passing(fault: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-u", "-c", PASSES],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "TIDELENS_FAULT": fault},
    )


@pytest.mark.parametrize(("fault", "passes"), [("encode.sent", 0), ("encode.sent:3", 2)])
def test_it_kills_itself(fault: str, passes: int) -> None:
    with passing(fault) as process:
        out, _ = process.communicate(timeout=90)
    assert process.returncode == -signal.SIGKILL
    assert out.split() == [str(n) for n in range(passes)]


def test_it_stops_once_until_it_is_woken() -> None:
    with passing("encode.sent:2:stop") as process:
        _, status = os.waitpid(process.pid, os.WUNTRACED)
        assert os.WIFSTOPPED(status)
        process.send_signal(signal.SIGCONT)
        out, _ = process.communicate(timeout=90)
    assert process.returncode == 0
    assert out.split() == ["0", "1", "2", "3"]


def test_another_point_is_passed() -> None:
    with passing("encode.claimed") as process:
        assert process.wait(timeout=90) == 0
