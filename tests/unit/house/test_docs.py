"""The examples in docs/ are true: code is run, and requests get the answers that are printed."""

import doctest
import re
from pathlib import Path
from typing import Any

import orjson
import pytest

from contracts.score import exact_scores, unit
from contracts.wire.as_of import AsOf
from contracts.wire.cursor import Cursor
from tests.kits.api_kit import Kit

DOCS = Path(__file__).parents[3] / "docs"
_FENCE = re.compile(r"```(\w+)\n(.*?)```", re.DOTALL)


def test_every_session_of_code_prints_what_it_says() -> None:
    ran = 0
    for page in sorted(DOCS.glob("*.md")):
        code = "".join(text for kind, text in _FENCE.findall(page.read_text()) if kind == "pycon")
        session = doctest.DocTestParser().get_doctest(code, {}, page.name, str(page), 0)
        runner = doctest.DocTestRunner()
        runner.run(session)
        assert runner.failures == 0, page.name
        ran += runner.tries
    assert ran > 15, "the pages lost their examples"


def blocks(page: str, mark: str) -> list[list[Any]]:
    """The JSON blocks that directly follow each `mark` in a page."""
    found = []
    for part in (DOCS / page).read_text().split(f"<!-- {mark} -->\n")[1:]:
        together = re.match(r"(```json\n.*?```\n)+", part, re.DOTALL)
        assert together is not None, f"{page}: no JSON behind {mark}"
        found.append([orjson.loads(text) for _, text in _FENCE.findall(together[0])])
    return found


def require_within(printed: Any, answered: Any) -> None:
    """Require every printed member in the answer; scores are rounded as they are printed."""
    if isinstance(printed, dict):
        assert printed.keys() <= answered.keys(), printed
        for name, value in printed.items():
            require_within(value, answered[name])
    elif isinstance(printed, list):
        assert len(printed) == len(answered), (printed, answered)
        for one, other in zip(printed, answered, strict=True):
            require_within(one, other)
    elif isinstance(printed, float):
        assert printed == pytest.approx(answered, abs=5e-5)
    else:
        assert printed == answered


@pytest.mark.anyio
async def test_every_request_gets_the_answer_that_is_printed() -> None:
    kit = Kit()
    [[items]] = blocks("search.md", "items")
    for item in items:
        kit.caption(item["id"], item["text"], item=item.get("item"))
    asked = blocks("search.md", "POST /v1/search")
    assert len(asked) >= 6
    for request, printed in asked:
        response = await kit.http.post("/v1/search", json=request)
        assert response.status_code == 200, response.text
        require_within(printed, response.json())


def test_the_definitions_are_those_of_the_code() -> None:
    """The product computes what the pages compute with numpy and the standard library."""
    query, item = unit([3, 4, 0]), unit([1, 1, 1])
    [printed] = re.findall(r"^0\.\d{10,}$", (DOCS / "search.md").read_text(), re.MULTILINE)
    assert exact_scores(item[None], query)[0] == float(printed)
    [cursor] = re.findall(r'cursor = "(\w+)"', (DOCS / "live.md").read_text())
    as_of = AsOf("hash-v1", "epoch-1", {"images": [0, 0], "captions": [4, 1]})
    assert Cursor(as_of, "5d1f", "c0ffee").encode() == cursor
