"""Files and folders are whole or absent, and a failed write leaves nothing behind."""

import os
from pathlib import Path

import pytest

from contracts.atomic_write import PartialFile, atomic_file, atomic_folder, atomic_write


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def synced(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the names of the files and folders that were synced, in order."""
    order: list[str] = []
    real = os.fsync

    def recorded(handle: int) -> None:
        order.append(Path(f"/proc/self/fd/{handle}").readlink().name)
        real(handle)

    monkeypatch.setattr(os, "fsync", recorded)
    return order


def test_bytes_are_synced_before_the_rename_and_the_folder_after(
    tmp_path: Path, synced: list[str]
) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "run").write_bytes(b"old")
    atomic_write(folder / "run", b"new")
    assert (folder / "run").read_bytes() == b"new"
    assert synced == [f".run.{os.getpid()}.partial", "data"]
    atomic_write(folder / "run", memoryview(b"newer"), durable=False)
    assert (folder / "run").read_bytes() == b"newer"
    assert len(synced) == 2
    assert names(folder) == ["run"]


@pytest.mark.parametrize("failing", ["fsync", "replace"])
def test_a_failed_write_leaves_the_file_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: str
) -> None:
    atomic_write(tmp_path / "run", b"old")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(*((os, "fsync", full) if failing == "fsync" else (Path, "replace", full)))
    with pytest.raises(OSError, match="No space"):
        atomic_write(tmp_path / "run", b"new")
    assert (tmp_path / "run").read_bytes() == b"old"
    assert names(tmp_path) == ["run"]


def test_any_error_of_the_writer_removes_the_partial_file(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), atomic_file(tmp_path / "run") as partial:
        partial.write_bytes(b"half")
        raise KeyboardInterrupt
    assert names(tmp_path) == []


def test_a_folder_that_does_not_exist_is_an_error_of_its_own(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        atomic_write(tmp_path / "absent" / "run", b"new")
    PartialFile.beside(tmp_path / "absent" / "run").discard()


def test_a_folder_appears_whole_and_for_this_user_alone(tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "parts"
    with atomic_folder(folder) as partial:
        (partial / "a").write_bytes(b"1")
        assert not folder.exists()
    assert names(folder) == ["a"]
    assert folder.stat().st_mode & 0o777 == 0o700
    assert names(folder.parent) == ["parts"]


def test_the_files_of_an_existing_folder_are_replaced_and_others_stay(tmp_path: Path) -> None:
    folder = tmp_path / "parts"
    folder.mkdir()
    for name in ("a", "other"):
        (folder / name).write_bytes(b"old")
    with atomic_folder(folder) as partial:
        for name in ("a", "b"):
            (partial / name).write_bytes(b"new")
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == {
        "a": b"new",
        "b": b"new",
        "other": b"old",
    }
    assert names(tmp_path) == ["parts"]


def test_a_folder_that_fails_leaves_nothing_and_one_of_a_killed_process_is_made_again(
    tmp_path: Path,
) -> None:
    folder = tmp_path / "parts"
    left = PartialFile.beside(folder).partial
    left.mkdir()
    (left / "stale").write_bytes(b"half")
    with pytest.raises(OSError, match="full"), atomic_folder(folder) as partial:
        assert names(partial) == []
        (partial / "a").write_bytes(b"1")
        raise OSError("full")
    assert names(tmp_path) == []


def test_a_file_in_the_way_of_a_folder_stays(tmp_path: Path) -> None:
    (tmp_path / "parts").write_bytes(b"mine")
    with pytest.raises(NotADirectoryError), atomic_folder(tmp_path / "parts") as partial:
        (partial / "a").write_bytes(b"1")
    assert names(tmp_path) == ["parts"]
