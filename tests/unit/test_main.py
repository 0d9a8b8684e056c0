"""The console script: every failure is one line and an exit code."""

import sys
from pathlib import Path

import pytest

from contracts.errors import ConfigurationError, TidelensError
from streams.jars import kafka_classpath
from tidelens.__main__ import main
from tidelens.commands.config import config


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
