"""The data directory's locks, one process for each part, and that nobody else looks into it."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from contracts.errors import DataDirInUse, DataDirNotWritable
from contracts.settings import Settings
from index_store.storage.open import open_blob_store
from tidelens.runtime.data_dir import locked, node_part


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
        "import os, sys; from pathlib import Path; from tidelens.runtime.data_dir import locked\n"
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


def mode(folder: Path) -> str:
    return f"{folder.stat().st_mode & 0o777:04o}"


def test_what_is_made_is_for_this_user_alone(tmp_path: Path) -> None:
    data = tmp_path / "above" / "data"
    with locked(data, "up"):
        assert [mode(data.parent), mode(data)] == ["0700", "0700"]


@pytest.mark.anyio
async def test_each_part_of_it_may_come_first(tmp_path: Path) -> None:
    async with open_blob_store(None, tmp_path / "a" / "snapshots") as blobs:
        await blobs.write("space/0/0/manifest", b"{}")
    kept = [tmp_path / "a", *(path for path in (tmp_path / "a").rglob("*") if path.is_dir())]
    assert {mode(path) for path in kept} == {"0700"}
    assert len(kept) == 5


def test_our_own_folder_is_closed_and_a_given_one_is_warned_about(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    for data, expected in ((tmp_path / "tidelens", "0700"), (tmp_path / "given", "0755")):
        data.mkdir()
        data.chmod(0o755)
        with capture_logs() as lines, locked(data, "up"):
            assert mode(data) == expected
        fixes = [line["fix"] for line in lines]
        assert fixes == ([] if expected == "0700" else [f"chmod 700 {data}"])


def test_no_folder_is_made_in_another_way() -> None:
    root = Path(__file__).parents[3]
    rooms = ("contracts", "consumers", "streams", "index_store", "api", "tidelens")
    makers = [
        path.relative_to(root).as_posix()
        for room in rooms
        for path in (root / room).rglob("*.py")
        if re.search(r"\bmkdir\(|makedirs\(", path.read_text())
    ]
    assert sorted(makers) == ["contracts/schemas/build.py", "contracts/user_folders.py"]
