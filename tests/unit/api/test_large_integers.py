"""Integers beyond 64 bits are refused wherever they come in, and those within are exact."""

import json
from pathlib import Path
from typing import Any

import orjson
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from contracts.errors import RejectedRecord, RejectedRequest
from contracts.events.content_event import Content, content_record, read_content
from contracts.events.record import Record
from contracts.filters.text_form import parse_text
from contracts.settings import Settings
from contracts.wire.exact_json import InexactNumberError, loads
from contracts.wire.parser import parse_json
from tests.kits.api_kit import Kit
from tidelens.cli.search import search
from tidelens.client import Client
from tidelens.ingest.content_files import RefusedContent
from tidelens.ingest.file_types import PublishSource
from tidelens.ingest.publisher import entries_of

MOST, LEAST = 2**64 - 1, -(2**63)
# What is written, the limit it breaks, and what is said of it.
BEYOND = [
    (str(2**64), MOST, str(2**64)),
    (str(2**64 + 1), MOST, str(2**64 + 1)),
    (str(LEAST - 1), LEAST, str(LEAST - 1)),
    (str(10**25), MOST, str(10**25)),
    ("9" * 5000, MOST, "9" * 30 + "..."),
]
WITHIN = ["-0", "0", str(MOST), str(LEAST), str(2**53 + 1), str(2**63 + 1), "1e300", "-1e19"]
# The longest is beyond a float64 too.
ways = pytest.mark.parametrize(("number", "limit", "value"), BEYOND)


async def posted(path: str, body: str) -> Any:
    headers = {"content-type": "application/json"}
    response = await Kit().http.post(path, content=body.encode(), headers=headers)
    assert response.status_code == 400
    return response.json()


@ways
@pytest.mark.anyio
@pytest.mark.parametrize(
    ("path", "body", "field"),
    [
        (
            "/v1/items",
            '{"target": "captions", "id": "a", "text": "x", "metadata": {"n": 1, "m": NUMBER}}',
            "metadata.m",
        ),
        (
            "/v1/items",
            '[{"target": "captions", "id": "a", "text": "x"},'
            '{"target": "captions", "id": "b", "text": "x", "metadata": {"l": [1, NUMBER]}}]',
            "1.metadata.l.1",
        ),
        ("/v1/search", '{"text": "a", "filter": {"eq": {"n": NUMBER}}}', "filter.eq.n"),
        (
            "/v1/search",
            '[{"text": "a"}, {"text": "a", "filter": {"not": {"in": {"n": [1.5, NUMBER]}}}}]',
            "1.filter.not.in.n.1",
        ),
        ("/v1/search", '{"text": "a", "k": NUMBER}', "k"),
    ],
)
async def test_over_http(
    path: str, body: str, field: str, number: str, limit: int, value: str
) -> None:
    problem = await posted(path, body.replace("NUMBER", number))
    assert (problem["field"], problem["limit"], problem["value"]) == (field, limit, value)
    assert field in problem["detail"] and str(limit) in problem["detail"]


@ways
@pytest.mark.anyio
async def test_in_a_live_frame(number: str, limit: int, value: str) -> None:
    condition = f'{{"range": {{"n": {{"gt": {number}}}}}}}'
    query = f'{{"text": "a", "filter": {condition}}}'
    async with Kit().live() as socket:
        await socket.accepted()
        socket.send_text(f'{{"op": "subscribe", "sub": "s", "query": {query}}}')
        error = await socket.receive()
    assert error["type"] == "error"
    assert error.get("sub") == (None if len(number) == 5000 else "s")
    assert error["field"] == "query.filter.range.n.gt"
    assert (error["limit"], error["value"]) == (limit, value)


@ways
def test_in_kafka_records(number: str, limit: int, value: str) -> None:
    caption = f'{{"text": "x", "metadata": {{"a": {{"n": [{number}]}}}}}}'.encode()
    json_type = (("content-type", b"application/json"), ("ce_type", b"tidelens.caption.v1"))
    header = f'{{"a": {{"n": [{number}]}}}}'.encode()
    image_type = (("content-type", b"image/png"), ("ce_type", b"tidelens.image.v1"))
    for target, record in (
        ("captions", Record("t", 0, 0, 0, b"a", caption, json_type)),
        ("images", Record("t", 0, 0, 0, b"a", b"png", (*image_type, ("ce_metadata", header)))),
    ):
        with pytest.raises(RejectedRecord) as caught:
            read_content(target, record)  # type: ignore[arg-type]
        error = caught.value
        assert (error.code, error.field) == ("invalid_content", "metadata.a.n.0")
        assert (error.limit, error.value) == (limit, value)


@ways
def test_in_json_lines_and_on_the_command_line(
    tmp_path: Path, number: str, limit: int, value: str
) -> None:
    file = tmp_path / "items.jsonl"
    file.write_text(f'{{"id": "a", "text": "x", "metadata": {{"n": {number}}}}}\n')
    [refused] = entries_of([PublishSource(file, tmp_path)], Settings())
    assert isinstance(refused, RefusedContent)
    assert f"metadata.n: limit {limit} (64 bits), got {value}" in refused.message
    for option, given_ in (
        ("--query", f'{{"text": "a", "filter": {{"eq": {{"n": {number}}}}}}}'),
        ("--filter", f'{{"eq": {{"n": {number}}}}}'),
        ("--filter", f"n = {number}"),
        ("--filter", f"n in (1, {number})"),
    ):
        result = CliRunner().invoke(search, ["--url", "http://127.0.0.1:1", option, given_])
        said = f"{result.output} {result.exception}"
        if len(number) < 5000 or "{" in given_:
            assert f"limit {limit} (64 bits), got {value}" in " ".join(said.split()), said


@pytest.mark.parametrize(("text", "at"), [(f"n = {2**64}", 5), (f"n >= 1 and m < {LEAST - 1}", 16)])
def test_in_a_filters_text(text: str, at: int) -> None:
    with pytest.raises(RejectedRequest, match=rf"at character {at}: limit .*64 bits") as caught:
        parse_text(text)
    assert caught.value.limit in (MOST, LEAST)


@pytest.mark.anyio
async def test_what_a_program_gives_is_refused_too() -> None:
    metadata = {"a": [1, {"n": 2**64}]}
    with pytest.raises(RejectedRecord) as caught:
        content_record("t", Content(target="captions", id="a", text="x", metadata=metadata))
    assert (caught.value.field, caught.value.limit) == ("metadata.a.1.n", MOST)
    metadata = {"a": float("inf")}
    with pytest.raises(RejectedRecord, match=r"metadata.a: limit 1\.79\d+e\+308, got inf"):
        content_record("t", Content(target="captions", id="a", text="x", metadata=metadata))
    async with Client("http://127.0.0.1:1") as client:
        with pytest.raises(RejectedRequest, match=r"filter.eq.n: limit \d+ \(64 bits\)"):
            await client.search({"text": "a", "filter": {"eq": {"n": 2**64}}})


@pytest.mark.parametrize("number", WITHIN)
def test_within_the_bounds_what_is_written_is_what_is_kept(number: str) -> None:
    raw = f'{{"text": "x", "metadata": {{"n": [{number}]}}}}'
    types = (("content-type", b"application/json"), ("ce_type", b"tidelens.caption.v1"))
    content = read_content("captions", Record("t", 0, 0, 0, b"a", raw.encode(), types))
    assert content is not None
    [kept] = content.metadata["n"]
    assert kept == json.loads(number) and type(kept) is type(json.loads(number))
    assert parse_json(raw) == json.loads(raw)


def test_numbers_that_are_floats_may_be_written_as_integers() -> None:
    for body in ({"vector": [2**70, 1.5]}, {"fuse": [{"vector": [-(2**80)]}]}):
        assert parse_json(json.dumps(body)) == body
    # What a reader ignores may hold anything.
    raw = json.dumps({"text": "x", "metadata": {"n": 1e300}, "later": 2**70}).encode()
    types = (("content-type", b"application/json"), ("ce_type", b"tidelens.caption.v1"))
    assert read_content("captions", Record("t", 0, 0, 0, b"a", raw, types)) is not None


@pytest.mark.parametrize(
    ("raw", "says"),
    [
        ('{"n": 1e400}', "n: limit 1.7976931348623157e+308, got inf"),
        ('{"vector": [1, -1e400]}', "vector.1: limit 1.7976931348623157e+308, got -inf"),
        ('{"n": ' + "9" * 400 + "}", f"n: limit {MOST} (64 bits), got 9999"),
        (str(2**64), f"body: limit {MOST} (64 bits), got {2**64}"),
    ],
)
def test_a_number_that_no_float_can_hold_is_json_all_the_same(raw: str, says: str) -> None:
    with pytest.raises(RejectedRequest) as caught:
        parse_json(raw)
    assert caught.value.code == "invalid_request"
    assert says in caught.value.message


@pytest.mark.parametrize("raw", ["[NaN, 1e400]", "[1e400", '{"a": 1e400}}', "[1e400" + "[" * 990])
def test_what_is_broken_besides_is_no_json(raw: str) -> None:
    with pytest.raises(RejectedRequest) as caught:
        parse_json(raw)
    assert caught.value.code == "invalid_json"


def test_what_is_nested_too_deep_is_refused_and_not_rounded() -> None:
    raw = f"[{2**64}, " + "[" * 1000 + "]" * 1000 + "]"
    with pytest.raises((RejectedRequest, InexactNumberError)):
        parse_json(raw)


INTEGERS = st.integers() | st.integers(2**63, 2**66) | st.integers(-(2**65), -(2**62))
LITERALS = (
    INTEGERS.map(str)
    | st.floats(allow_nan=False, allow_infinity=False).map(repr)
    | st.integers(10**18, 10**22).map(lambda n: f"{n}.0")
    | st.sampled_from(["-0", "1E30", "123456789012345678901234567890e-5"])
)


@settings(deadline=None)
@given(st.lists(LITERALS, max_size=5), st.sampled_from(["a", "vector"]))
def test_it_is_exact_or_refused(literals: list[str], name: str) -> None:
    raw = f'[{{"{name}": [{", ".join(literals)}]}}]'
    exact = json.loads(raw)
    wrong = [n for n in exact[0][name] if isinstance(n, int) and not LEAST <= n <= MOST]
    if wrong and name != "vector":
        with pytest.raises(InexactNumberError) as caught:
            loads(raw)
        # By identity: a float before it may be equal.
        at = next(n for n, number in enumerate(exact[0][name]) if number is wrong[0])
        assert (caught.value.number.field, caught.value.number.value[:20]) == (
            f"0.{name}.{at}",
            str(wrong[0])[:20],
        )
    else:
        assert loads(raw) == orjson.loads(raw)
        assert wrong or loads(raw) == exact
