"""The console script: every failure is one line and an exit code."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from contracts.errors import ConfigurationError, TidelensError
from streams.devbroker.jars import kafka_classpath
from tidelens.__main__ import main
from tidelens.cli.config import config
from tidelens.process import blas_threads


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (ConfigurationError("PORT: too small"), 2, "PORT: too small"),
        (TidelensError("lost"), 1, "lost"),
        (PermissionError(13, "Permission denied", "/x/y"), 1, "/x/y: Permission denied"),
        (OSError(28, "No space left on device"), 1, "No space left on device"),
        (OSError("odd"), 1, "OSError('odd')"),
    ],
)
def test_a_failure_is_one_line(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    error: Exception,
    code: int,
    line: str,
) -> None:
    def fail(**_: object) -> None:
        raise error

    monkeypatch.setattr(config, "callback", fail)
    monkeypatch.setattr(sys, "argv", ["tidelens", "config"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == code
    assert capsys.readouterr() == ("", f"tidelens: {line}\n")


def test_a_cache_that_cannot_be_written_is_told(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("where a folder is needed")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(ConfigurationError, match=r"XDG_CACHE_HOME: .*/file/tidelens/kafka-"):
        kafka_classpath()


def test_numpy_is_loaded_after_its_threads_were_told_how_to_wait() -> None:
    """OpenBLAS reads it once; and the command is there sooner without numpy."""
    program = (
        "import os, sys; from tidelens.__main__ import main\n"
        "from tidelens.process import blas_threads\n"
        "early = 'numpy' in sys.modules; blas_threads.wait_asleep()\n"
        "sys.exit(early or os.environ['OPENBLAS_THREAD_TIMEOUT'] != '10')"
    )
    without = {k: v for k, v in os.environ.items() if k != "OPENBLAS_THREAD_TIMEOUT"}
    subprocess.run([sys.executable, "-c", program], check=True, env=without, timeout=90)


def test_the_command_tells_them(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OPENBLAS_THREAD_TIMEOUT", "GOMP_SPINCOUNT", "OMP_WAIT_POLICY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(sys, "argv", ["tidelens", "--version"])
    with pytest.raises(SystemExit):
        main()
    assert os.environ["OPENBLAS_THREAD_TIMEOUT"] == "10"
    assert os.environ["GOMP_SPINCOUNT"] == "20000"


def test_what_the_operator_told_them_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GOMP_SPINCOUNT", raising=False)
    monkeypatch.setenv("OMP_WAIT_POLICY", "ACTIVE")
    monkeypatch.setenv("OPENBLAS_THREAD_TIMEOUT", "26")
    blas_threads.wait_asleep()
    assert os.environ["OPENBLAS_THREAD_TIMEOUT"] == "26"
    assert "GOMP_SPINCOUNT" not in os.environ


@pytest.mark.parametrize(("given", "code"), [(None, 0), (0, 0), (3, 3)])
def test_a_command_may_choose_its_exit_code(
    monkeypatch: pytest.MonkeyPatch, given: int | None, code: int
) -> None:
    monkeypatch.setattr(config, "callback", lambda **_: sys.exit(given))
    monkeypatch.setattr(sys, "argv", ["tidelens", "config"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == code
