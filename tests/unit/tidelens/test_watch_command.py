"""`tidelens watch` as a person runs it: a process whose lines are read as they come."""

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import click
import orjson
import pytest
from click.testing import CliRunner

from contracts.supervision.children import module_command
from contracts.wire.client_messages import Query, Subscribe
from tests.kits.api_kit import Kit, serving
from tests.kits.roles import free_port
from tests.oracles.logged_index import LoggedIndex
from tidelens.cli.watch import watch

pytestmark = pytest.mark.anyio


class Watching:
    """One `tidelens watch` process."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    async def lines(self, count: int) -> list[str]:
        """Return the next lines, with SCORE for each score."""
        lines = [(await self._line()).decode().removesuffix("\n") for _ in range(count)]
        return [re.sub(r"-?\d\.\d{4}", "SCORE", line) for line in lines]

    async def json(self) -> Any:
        return orjson.loads(await self._line())

    async def _line(self) -> bytes:
        assert self._process.stdout is not None
        async with asyncio.timeout(90):
            return await self._process.stdout.readline()

    async def ended(self) -> tuple[int | None, str, str]:
        """Exit code, and what else it wrote."""
        async with asyncio.timeout(90):
            out, err = await self._process.communicate()
        return self._process.returncode, out.decode(), err.decode()


@asynccontextmanager
async def watching(port: int, *arguments: str) -> AsyncIterator[Watching]:
    process = await asyncio.create_subprocess_exec(
        *module_command("tidelens", "watch", "red cat", "--target", "captions"),
        *("--url", f"http://127.0.0.1:{port}", *arguments),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        yield Watching(process)
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


def filled() -> Kit:
    kit = Kit()
    kit.caption("a", "red cat")
    kit.caption("b", "blue dog")
    return kit


async def test_changes_as_they_come_and_over_restarts_of_the_server() -> None:
    kit, port = filled(), free_port()
    async with AsyncExitStack() as server:
        await server.enter_async_context(serving(kit.app, kit.settings, port))
        async with watching(port, "-k", "2") as watch:
            shown = ["# snapshot", "+   1  SCORE  a  red cat", "+   2  SCORE  b  blue dog"]
            assert await watch.lines(3) == shown
            kit.caption("c", "red dog")
            assert await watch.lines(2) == ["- b", "+   2  SCORE  c  red dog"]
            texts = (("c", "red cat"), ("a", "red dog"))
            kit.index.batch([("captions", i, kit.text(text), {"text": text}) for i, text in texts])
            swapped = ["~   1  SCORE  c  red cat", "=   2  SCORE  a  red dog"]
            assert await watch.lines(2) == swapped

            await server.aclose()
            again = Kit(index=kit.index)
            async with serving(again.app, again.settings, port):
                assert await watch.lines(1) == ["# resumed"]
            kit.index.remove("captions", "c")
            last = Kit(index=kit.index)
            async with serving(last.app, last.settings, port):
                missed = ["# snapshot", "- c", "+   2  SCORE  b  blue dog"]
                assert await watch.lines(3) == missed


async def test_json_lines_and_a_bound() -> None:
    kit, port = filled(), free_port()
    arguments = ["--json", "-k", "1", "--changes", "2", "--filter", "not exists(draft)"]
    async with serving(kit.app, kit.settings, port), watching(port, *arguments) as watch:
        opened = await watch.json()
        assert opened.keys() == {"event", "changes", "hits", "cursor", "reason", "warnings"}
        assert [one["field"] for one in opened["warnings"]] == ["filter.draft"]
        assert (opened["event"], opened["reason"]) == ("snapshot", None)
        assert [hit["id"] for hit in opened["hits"]] == ["a"]
        kit.index.remove("captions", "a")
        delta = await watch.json()
        assert [(c["change"], c["id"]) for c in delta["changes"]] == [
            ("leave", "a"),
            ("enter", "b"),
        ]
        assert [hit["id"] for hit in delta["hits"]] == ["b"]
        assert delta["cursor"] != opened["cursor"]
        assert await watch.ended() == (0, "", "")


def test_the_options_are_what_a_subscription_takes() -> None:
    """An offset is refused, live lists are always exact, and --query gives vectors and `fuse`."""
    offered = {parameter.name for parameter in watch.params}
    of_query = set(Query.model_fields) - {"offset", "exact", "vector", "fuse"}
    of_subscription = set(Subscribe.model_fields) - {"op", "sub"}
    of_command = {"changes_max", "url", "data", "as_json"}
    assert offered == of_query | of_subscription | of_command


@pytest.mark.parametrize("option", ["--offset", "--exact"])
def test_options_of_a_search_alone_are_refused(option: str) -> None:
    refused = CliRunner().invoke(watch, ["red cat", option])
    assert (refused.exit_code, f"No such option: {option}" in refused.output) == (2, True)


@pytest.mark.parametrize("option", ["--throttle-ms", "--min-change", "--collapse", "-k"])
def test_the_help_says_what_goes_with_mode_top(option: str) -> None:
    (found,) = [one for one in watch.params if option in one.opts]
    assert isinstance(found, click.Option)
    assert (found.help or "").startswith("Mode top: ")


async def test_a_refusal_is_one_line() -> None:
    kit, port = filled(), free_port()
    offset = ("--query", '{"offset": 1}')
    async with serving(kit.app, kit.settings, port), watching(port, *offset) as watch:
        says = "query.offset: a live list starts at the top, got 1"
        assert await watch.ended() == (1, "", f"tidelens: {says}\n")
    async with watching(port) as watch:
        code, out, err = await watch.ended()
        assert (code, out, err.count("\n")) == (2, "", 1)
        assert f"cannot open a live connection to http://127.0.0.1:{port}" in err


async def test_matches_are_lines_of_their_own() -> None:
    index = LoggedIndex()
    kit = Kit(index=index)
    index.log = kit.log
    async with (
        serving(kit.app, kit.settings) as port,
        watching(port, "--mode", "matches", "--min-score", "0.6") as watch,
    ):
        assert await watch.lines(1) == ["# resumed"]
        kit.caption("near", "red cat")
        kit.caption("far", "blue dog")
        kit.caption("nearer", "red cat red cat")
        assert await watch.lines(2) == [
            "! SCORE  near  red cat",
            "! SCORE  nearer  red cat red cat",
        ]
