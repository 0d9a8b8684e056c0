"""`tidelens search` and `watch`: the options become the wire's query."""

from typing import Any

import click
import pytest
from click.testing import CliRunner

from tidelens.commands.search import build_query, query_options, search
from tidelens.commands.watch import watch


def query_of(*arguments: str) -> Any:
    built: list[Any] = []

    @click.command()
    @query_options
    def command(**query: Any) -> None:
        built.append(build_query(**query))

    result = CliRunner().invoke(command, arguments)
    assert result.exit_code == 0, result.output
    return built[0]


def test_a_filter_as_text_and_as_json_are_the_same_query() -> None:
    condition = {"and": [{"eq": {"lang": "en"}}, {"not": {"exists": "draft"}}]}
    expected = {"target": "images", "k": 10, "text": "cat", "filter": condition}
    assert query_of("cat", "--filter", 'lang = "en" and not exists(draft)') == expected
    as_json = ' {"and": [{"eq": {"lang": "en"}}, {"not": {"exists": "draft"}}]}'
    assert query_of("cat", "--filter", as_json) == expected
    assert "filter" not in query_of("cat")


@pytest.mark.parametrize("command", [search, watch])
@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("lang = en", "at character 8: want a value; a string stands in double quotes, got en"),
        ('{"eq": ', "not JSON"),
        ("", "at character 1: want a field's name, got the end"),
    ],
)
def test_a_filter_that_cannot_be_read(command: click.Command, text: str, why: str) -> None:
    result = CliRunner().invoke(command, ["cat", "--filter", text])
    assert result.exit_code == 2
    assert "--filter" in result.output and why in result.output
