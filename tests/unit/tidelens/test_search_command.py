"""`tidelens search` and `watch`: the options become the wire's query, the answer is shown."""

import asyncio
import base64
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
import orjson
import pytest
from click.testing import CliRunner

from contracts.errors import ConfigurationError, RejectedRequest
from contracts.wire.server_messages import AnswerMessage
from tests.kits.api_kit import Kit, serving
from tests.kits.roles import said
from tidelens.cli.search import build_query, query_options, search
from tidelens.cli.watch import watch


def query_of(*arguments: str) -> Any:
    built: list[Any] = []

    @click.command()
    @query_options
    def command(**query: Any) -> None:
        built.append(build_query(**query))

    CliRunner().invoke(command, arguments, catch_exceptions=False)
    return built[0]


def test_a_filter_as_text_and_as_json_are_the_same_query() -> None:
    condition = {"and": [{"eq": {"lang": "en"}}, {"not": {"exists": "draft"}}]}
    expected = {"text": "cat", "filter": condition}
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


def test_every_member_of_a_query_has_an_option(tmp_path: Path) -> None:
    picture = tmp_path / "cat.png"
    picture.write_bytes(b"picture")
    token = {"topic": "tidelens.captions", "partition": 1, "offset": 7}
    assert query_of(
        *("--image", str(picture), "--target", "captions", "-k", "3", "--offset", "2"),
        *("--min-score", "0.2", "--collapse", "item", "--exact", "--include", "vector"),
        *("--wait-for", orjson.dumps(token).decode(), "--timeout", "2.5"),
    ) == {
        "image": base64.b64encode(b"picture").decode(),
        "target": "captions",
        "k": 3,
        "offset": 2,
        "min_score": 0.2,
        "collapse": "item",
        "exact": True,
        "include": ["vector"],
        "wait_for": token,
        "timeout_s": 2.5,
    }
    assert query_of("--id", "a", "--target", "captions") == {
        "id": "a",
        "of": "captions",
        "target": "captions",
    }
    assert query_of("--id", "a") == {"id": "a", "of": "images"}


def test_a_whole_query_of_which_options_set_members(tmp_path: Path) -> None:
    whole = {"fuse": [{"text": "cat"}, {"text": "dog", "weight": -0.5}], "k": 3, "exact": True}
    file = tmp_path / "query.json"
    file.write_bytes(orjson.dumps(whole))
    assert query_of("--query", f"@{file}") == whole
    assert query_of("--query", orjson.dumps(whole).decode(), "-k", "5") == whole | {"k": 5}
    assert query_of("--query", '{"vector": [1, 0]}') == {"vector": [1, 0]}


@pytest.mark.parametrize("command", [search, watch])
@pytest.mark.parametrize(
    ("arguments", "error", "says"),
    [
        ([], RejectedRequest, "exactly one of text, image, vector, id and fuse is needed"),
        (["a", "-k", "0"], RejectedRequest, "k: "),
        (["--query", '{"text": "a", "offset": -1}'], RejectedRequest, "offset: "),
        (["a", "--min-score", "nan"], RejectedRequest, "min_score: "),
        (["a", "--timeout", "0"], RejectedRequest, "timeout_s: "),
        (["a", "--wait-for", '{"topic": 1}'], RejectedRequest, "wait_for."),
        (["a", "--wait-for", "{"], ConfigurationError, "--wait-for: not JSON"),
        (["a", "--query", '{"id": "b", "of": "images"}'], RejectedRequest, "exactly one of"),
        (["--query", '{"id": "b"}'], RejectedRequest, "of: "),
        (["--query", '{"text": "a", "wat": 1}'], RejectedRequest, "wat: "),
        (["--query", "[]"], ConfigurationError, "--query: want a JSON object, got list"),
        (["--query", "@/nowhere"], ConfigurationError, "--query: /nowhere: No such file"),
    ],
)
def test_a_bad_query_is_refused_before_a_server_is_asked(
    command: click.Command, arguments: list[str], error: type[Exception], says: str
) -> None:
    result = CliRunner().invoke(command, [*arguments, "--url", "http://127.0.0.1:1"])
    assert isinstance(result.exception, error)
    assert says in str(result.exception)
    assert "\n" not in str(result.exception)


def test_an_offset_of_search_is_checked_as_well() -> None:
    result = CliRunner().invoke(search, ["a", "--offset", "-1", "--url", "http://127.0.0.1:1"])
    assert isinstance(result.exception, RejectedRequest)
    assert "offset: " in str(result.exception)


def test_watch_offers_what_a_subscription_takes() -> None:
    """A live list starts at the top and is exact (docs/live.md)."""
    taken = {name for option in watch.params for name in option.opts}
    offered = {name for option in search.params for name in option.opts}
    assert offered - taken == {"--offset", "--exact"}
    assert taken - offered == {"--mode", "--throttle-ms", "--min-change", "--cursor", "--changes"}
    for option in (["--offset", "1"], ["--exact"]):
        result = CliRunner().invoke(watch, ["a", *option])
        assert result.exit_code == 2
        assert f"No such option: {option[0]}" in result.stderr


Ran = tuple[int, str, str]


async def searched(kit: Kit, *commands: Sequence[str]) -> list[Ran]:
    """Exit code, stdout and stderr of each command, against one server."""
    async with serving(kit.app, kit.settings) as port:
        url = f"http://127.0.0.1:{port}"
        return await asyncio.gather(*(said("search", *one, "--url", url) for one in commands))


@pytest.mark.anyio
async def test_hits_a_line_each_or_the_answer_as_json() -> None:
    kit = Kit()
    kit.index.put("images", "p/1.jpg", kit.text("red cat"), metadata={"name": "cat face"})
    kit.caption("a", "red cat")
    kit.caption("b", "blue dog")
    whole = '{"text": "red cat", "target": "captions", "k": 1, "include": ["vector"]}'
    (code, out, err), nothing, (json_code, json, json_err), warned = await searched(
        kit,
        ["red cat"],
        ["red cat", "--min-score", "2"],
        ["--json", "--query", whole, "--offset", "1"],
        ["red cat", "--filter", "not exists(draft)"],
    )
    assert re.fullmatch(r"  1  [01]\.\d{4}  p/1\.jpg  cat face\n", out)
    assert (code, err) == (0, "")
    assert nothing == (0, "", "no hits\n")
    assert warned == (0, out, "warning: filter: no item has a field 'draft'\n")
    assert (json_code, json.count("\n"), json_err) == (0, 1, "")
    [hit] = AnswerMessage.model_validate_json(json).hits
    assert (hit.id, hit.rank, hit.text) == ("b", 2, "blue dog")
    assert hit.vector == [float(number) for number in kit.text("blue dog")]


@pytest.mark.anyio
async def test_what_the_server_refuses_and_what_is_waited_for_in_vain() -> None:
    token = '{"topic": "tidelens.captions", "partition": 0, "offset": 9}'
    assert await searched(
        Kit(), ["cat", "-k", "101"], ["cat", "--wait-for", token, "--timeout", "0.05"]
    ) == [
        (1, "", "tidelens: k + offset: limit 100, got 101\n"),
        (1, "", "tidelens: timeout_s: no answer within 0.05 s\n"),
    ]
