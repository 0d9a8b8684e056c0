"""The folders for downloads and data follow the XDG Base Directory convention."""

import pwd
from pathlib import Path

import pytest

from contracts.errors import ConfigurationError
from contracts.settings import Settings
from contracts.user_folders import user_cache_dir, user_data_dir


def test_the_folders_follow_xdg(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/c")
    monkeypatch.setenv("XDG_DATA_HOME", "/d")
    monkeypatch.delenv("TIDELENS_DATA", raising=False)
    assert user_cache_dir() == Path("/c/tidelens")
    assert user_data_dir() == Settings().data == Path("/d/tidelens")
    monkeypatch.setenv("TIDELENS_DATA", "here")
    assert Settings().data == Path("here")


def test_without_xdg_they_are_in_the_users_home(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("XDG_DATA_HOME", "")
    monkeypatch.setenv("HOME", "/home/ann")
    assert user_cache_dir() == Path("/home/ann/.cache/tidelens")
    assert user_data_dir() == Path("/home/ann/.local/share/tidelens")


def test_a_user_without_a_home_is_told_what_to_set(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_entry(uid: int) -> None:
        raise KeyError(uid)

    for variable in ("HOME", "XDG_DATA_HOME"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr(pwd, "getpwuid", no_entry)
    with pytest.raises(ConfigurationError, match="set HOME or XDG_DATA_HOME"):
        user_data_dir()


def test_a_relative_folder_is_ignored_as_the_convention_says(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", "here")
    monkeypatch.setenv("HOME", "/home/ann")
    assert user_data_dir() == Path("/home/ann/.local/share/tidelens")
