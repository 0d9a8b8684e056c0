"""The data directory's locks: one process for each part, named by its pid."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from contracts.errors import DataDirInUse, DataDirNotWritable
from contracts.settings import Settings
from tidelens.data_dir import locked, node_part


def test_a_second_holder_is_told_the_pid_of_the_first(tmp_path: Path) -> None:
    with locked(tmp_path / "made" / "data", "up"):
        for _ in range(2):  # and refusing does not take the name away
            with (
                pytest.raises(DataDirInUse, match=rf"\(pid {os.getpid()}\).*data \(up\.lock\)"),
                locked(tmp_path / "made" / "data", "up"),
            ):
                pass
    with locked(tmp_path / "made" / "data", "up"):
        pass


def test_a_killed_holder_leaves_nothing_behind(tmp_path: Path) -> None:
    program = (
        "import os, sys; from pathlib import Path; from tidelens.data_dir import locked\n"
        "with locked(Path(sys.argv[1]), 'up'): os.kill(os.getpid(), 9)"
    )
    assert subprocess.run([sys.executable, "-c", program, str(tmp_path)]).returncode == -9
    with locked(tmp_path, "up"):
        assert (tmp_path / "up.lock").read_text() == f"{os.getpid()}\n"


def test_nodes_of_other_shards_and_replicas_share_the_directory(tmp_path: Path) -> None:
    first = Settings(shard="a", replica="b-c")
    with (
        locked(tmp_path, node_part(first)),
        locked(tmp_path, node_part(Settings(shard="a-b", replica="c"))),
        locked(tmp_path, node_part(Settings(shard="a", replica="1"))),
        pytest.raises(DataDirInUse),
        locked(tmp_path, node_part(first)),
    ):
        pass


@pytest.mark.parametrize("harm", ["data", "data/up.lock/x"])
def test_a_directory_that_cannot_be_written(tmp_path: Path, harm: str) -> None:
    (tmp_path / harm).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / harm).write_text("in the way")
    data = tmp_path / "data"
    told = f"data directory {data}: .*--data"
    with pytest.raises(DataDirNotWritable, match=told), locked(data, "up"):
        pass
