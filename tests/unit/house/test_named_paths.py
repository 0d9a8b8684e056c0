"""An empty path names nothing; pathlib would make the current folder of it."""

import pytest
from click.testing import CliRunner

from tidelens.__main__ import LazyGroup


@pytest.mark.parametrize(
    ("command", "name"),
    [
        (["publish", ""], "PATHS"),
        (["publish", "cats", ""], "PATHS"),
        (["up", "--data", ""], "--data"),
        (["up", "--watch", ""], "--watch"),
        (["up", "--allow-root", ""], "--allow-root"),
        (["index", "--data", ""], "--data"),
        (["snapshot", "list", "--data", ""], "--data"),
        (["dead-letters", "show", "1", "--save", ""], "--save"),
        (["search", "--image", ""], "--image"),
        (["classify", "--image", ""], "--image"),
    ],
)
def test_an_empty_path_is_refused_by_the_name_of_its_option(command: list[str], name: str) -> None:
    result = CliRunner(env={"TIDELENS_BROKERS": "127.0.0.1:1"}).invoke(LazyGroup(), command)
    assert result.exit_code == 2
    said = result.stderr.splitlines()[-1]
    assert name in said and "want a path, got an empty one" in said
