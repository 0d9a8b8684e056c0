"""POST /v1/search: every type of query, lists, waits, and the problems of refused queries."""

import asyncio
import base64
from dataclasses import replace
from typing import Any

import httpx
import pytest

from api.queries.prepare import PreparedQuery, ResolvedQuery
from contracts.errors import RejectedRecord
from contracts.ports.lag import Lag
from contracts.score import unit
from contracts.topics import Target
from contracts.wire.server_messages import AnswerMessage
from tests.kits.api_kit import Kit

pytestmark = pytest.mark.anyio


@pytest.fixture
async def kit() -> Kit:
    kit = Kit()
    kit.caption("a", "red cat", item="p1", metadata={"lang": "en"})
    kit.caption("b", "red dog", item="p1")
    kit.caption("c", "blue dog")
    kit.index.put("images", "p/1 ü.jpg", kit.text("red cat"))
    return kit


async def search(kit: Kit, **query: Any) -> Any:
    response = await kit.http.post("/v1/search", json={"target": "captions", **query})
    assert response.status_code == 200, response.text
    AnswerMessage.model_validate_json(response.content)
    return response.json()


async def refused(kit: Kit, body: Any, **options: Any) -> Any:
    response = await kit.http.post("/v1/search", json=body, **options)
    return problem_of(response)


def problem_of(response: httpx.Response) -> Any:
    assert response.headers["content-type"] == "application/problem+json"
    problem = response.json()
    assert problem["status"] == response.status_code
    assert {"type", "title", "detail", "code"} <= problem.keys()
    return problem


def ids(answer: Any) -> list[str]:
    return [hit["id"] for hit in answer["hits"]]


async def test_an_answer_has_everything(kit: Kit) -> None:
    answer = await search(kit, text="red cat", k=2)
    assert ids(answer) == ["a", "b"]
    assert answer["hits"][0] | {"score": 1} == {
        "id": "a",
        "target": "captions",
        "rank": 1,
        "score": 1,
        "item": "p1",
        "text": "red cat",
        "metadata": {"lang": "en"},
        "source": {"topic": "tidelens.captions", "partition": 0, "offset": 0},
        "picture": None,
    }
    assert (answer["shards_ok"], answer["shards"], answer["partial"]) == (1, 1, False)
    assert answer["as_of"]["space"] == "hash-v1"
    assert answer["took_ms"] > 0


async def test_a_picture_names_its_path(kit: Kit) -> None:
    answer = await search(kit, text="red cat", target="images")
    assert answer["hits"][0]["picture"] == "/v1/pictures/p/1%20%C3%BC.jpg"


async def test_the_kinds_of_query(kit: Kit) -> None:
    red_cat = [float(number) for number in kit.text("red cat")]
    assert ids(await search(kit, vector=[2 * n for n in red_cat], k=1)) == ["a"]
    assert ids(await search(kit, id="c", of="captions", k=1)) == ["c"], "the item itself too"
    assert ids(await search(kit, id="p/1 ü.jpg", of="images", k=1)) == ["a"]
    image = base64.b64encode(b"\x10").decode()
    assert len(ids(await search(kit, image=image))) == 3
    fused = [{"text": "red cat"}, {"id": "a", "of": "captions", "weight": -0.9}]
    assert len(ids(await search(kit, fuse=fused))) == 3


async def test_a_fused_vector_is_the_weighted_sum(kit: Kit) -> None:
    parts = [{"text": "red", "weight": 0.7}, {"text": "cat", "weight": -0.2}]
    fused = await search(kit, fuse=parts)
    total = 0.7 * kit.text("red").astype(float) - 0.2 * kit.text("cat").astype(float)
    plain = await search(kit, vector=[float(n) for n in unit(total)])
    assert fused["hits"] == plain["hits"]


async def test_offset_min_score_collapse_and_vector(kit: Kit) -> None:
    paged = await search(kit, text="red cat", k=1, offset=1)
    assert [(hit["id"], hit["rank"]) for hit in paged["hits"]] == [("b", 2)]
    assert ids(await search(kit, text="red cat", min_score=0.9)) == ["a"]
    assert ids(await search(kit, text="red cat", collapse="item")) == ["a", "c"]
    shown = await search(kit, text="red cat", include=["vector"], k=1)
    assert shown["hits"][0]["vector"] == [float(n) for n in kit.text("red cat")]


async def test_a_list_is_answered_in_order_from_one_view(kit: Kit) -> None:
    queries = [{"text": "red cat", "target": "captions"}, {"text": "x", "target": "images"}]
    response = await kit.http.post("/v1/search", json=queries)
    first, second = response.json()
    assert (first["hits"][0]["id"], second["hits"][0]["id"]) == ("a", "p/1 ü.jpg")
    assert first["as_of"] == second["as_of"]
    assert kit.index.searches == 1
    assert (await kit.http.post("/v1/search", json=[])).json() == []


@pytest.mark.parametrize(
    ("query", "status", "code", "field"),
    [
        ({}, 400, "invalid_request", "body"),
        ({"text": "a", "id": "b", "of": "images"}, 400, "invalid_request", "body"),
        ({"id": "a"}, 400, "invalid_request", "of"),
        ({"text": ""}, 400, "invalid_request", "text"),
        ({"text": 1}, 400, "invalid_request", "text"),
        ({"text": "a", "k": 0}, 400, "invalid_request", "k"),
        ({"text": "a", "k": "5"}, 400, "invalid_request", "k"),
        ({"text": "a", "k": 101}, 400, "too_many", "k"),
        ({"text": "a", "k": 60, "offset": 60}, 400, "too_many", "k"),
        ({"text": "a", "target": "videos"}, 400, "invalid_request", "target"),
        ({"text": "a", "wat": 1}, 400, "invalid_request", "wat"),
        ({"text": "a", "filter": {}}, 400, "invalid_filter", "filter"),
        ({"text": "a", "filter": "lang = 1"}, 400, "invalid_request", "filter"),
        (
            {"text": "a", "filter": {"and": [{"exists": "a"}, {"range": {"year": {"gt": "x"}}}]}},
            400,
            "invalid_filter",
            "filter.and[1].range.year.gt",
        ),
        ({"text": "a", "timeout_s": 0}, 400, "invalid_request", "timeout_s"),
        ({"text": "a", "collapse": "id"}, 400, "invalid_request", "collapse"),
        ({"image": "https://example.com/x.png"}, 400, "not_enabled", "image"),
        ({"image": "file:/etc/passwd"}, 400, "file_reference", "image.ref"),
        ({"image": {"ref": "FILE:///etc/passwd"}}, 400, "file_reference", "image.ref"),
        ({"image": {"ref": "s3://b/k"}}, 400, "not_enabled", "image.ref"),
        ({"image": {"ref": "s3://b/k", "data": "AAAA"}}, 400, "invalid_request", "image"),
        ({"image": {}}, 400, "invalid_request", "image"),
        ({"image": {"data": "AAAA", "sha256": "0" * 64}}, 400, "invalid_request", "image"),
        ({"image": {"ref": ""}}, 400, "invalid_request", "image"),
        ({"image": {"data": "???"}}, 400, "invalid_base64", "image"),
        ({"image": "https://x/" + "y" * 4096}, 400, "reference_invalid", "image.ref"),
        ({"fuse": [{"image": "s3://b/k"}]}, 400, "not_enabled", "image"),
        ({"image": "???"}, 400, "invalid_base64", "image"),
        ({"vector": [1.0]}, 400, "wrong_dimension", "vector"),
        ({"vector": [0.0] * 64}, 400, "zero_vector", "vector"),
        ({"id": "nobody", "of": "captions"}, 404, "item_not_found", "id"),
        ({"fuse": []}, 400, "invalid_request", "fuse"),
        ({"fuse": [{"text": "a"}, {"text": "a", "weight": -1}]}, 400, "zero_vector", "fuse"),
        (
            {"fuse": [{"text": "a", "weight": weight} for weight in (0.1, 0.2, -0.3)]},
            400,
            "zero_vector",
            "fuse",
        ),
        ({"text": "a", "wait_for": {"topic": "t"}}, 400, "invalid_request", "wait_for"),
        ("red cat", 400, "invalid_request", "body"),
        ([{"text": "a"}, {"text": ""}], 400, "invalid_request", "1.text"),
        ([{"text": "a"}] * 65, 413, "too_many", "queries"),
    ],
)
async def test_what_is_refused(kit: Kit, query: Any, status: int, code: str, field: str) -> None:
    problem = await refused(kit, query)
    assert (problem["status"], problem["code"]) == (status, code), problem
    assert problem["field"].startswith(field)
    assert field == "body" or field.split(".")[-1] in problem["detail"]
    assert not kit.index.searches


@pytest.mark.parametrize("scale", [1e-320, 1e-200, 1e300, 1e308])
async def test_vectors_and_weights_of_any_scale_are_taken(kit: Kit, scale: float) -> None:
    """Vectors are compared by their directions alone."""
    signs = [1.0, -1.0] * 32
    expected = (await search(kit, vector=signs))["hits"]
    assert (await search(kit, vector=[scale * sign for sign in signs]))["hits"] == expected
    parts = [{"vector": signs, "weight": weight * scale} for weight in (0.5, 1.0)]
    assert (await search(kit, fuse=parts))["hits"] == expected


async def test_a_filter_keeps_items_by_metadata(kit: Kit) -> None:
    assert ids(await search(kit, text="red cat", filter={"eq": {"lang": "en"}})) == ["a"]
    missing = {"not": {"exists": "lang"}}
    assert ids(await search(kit, text="red cat", filter=missing)) == ["b", "c"]
    assert ids(await search(kit, text="red cat", filter=missing, k=1, offset=1)) == ["c"]


@pytest.mark.parametrize(
    ("condition", "code", "field"),
    [
        ({"eq": {"language": "en"}}, "unknown_field", "filter.language"),
        ({"range": {"lang": {"gte": 5}}}, "wrong_type", "filter.lang"),
    ],
)
async def test_a_filter_that_nothing_could_match_is_answered_with_a_warning(
    kit: Kit, condition: dict[str, Any], code: str, field: str
) -> None:
    answer = await search(kit, text="red cat", filter=condition)
    assert answer["hits"] == []
    [warning] = answer["warnings"]
    assert (warning["code"], warning["field"]) == (code, field)
    assert repr(field.removeprefix("filter.")) in warning["message"]
    negated = await search(kit, text="red cat", filter={"not": condition})
    plain = await search(kit, text="red cat")
    assert (ids(negated), negated["warnings"]) == (ids(plain), [warning])
    assert "warnings" not in plain


async def test_not_exists_of_a_field_nobody_has_admits_everything(kit: Kit) -> None:
    condition = {"not": {"exists": "draft"}}
    before = await search(kit, text="red cat", filter=condition)
    assert ids(before) == ["a", "b", "c"]
    assert [one["code"] for one in before["warnings"]] == ["unknown_field"]
    kit.caption("d", "red cat", metadata={"draft": True})
    after = await search(kit, text="red cat", filter=condition)
    assert "warnings" not in after
    assert ids(after) == ["a", "b", "c"]
    kit.index.remove("captions", "d")
    again = await search(kit, text="red cat", filter=condition)
    assert (again["hits"], again["warnings"]) == (before["hits"], before["warnings"])


async def test_limits_name_limit_and_value(kit: Kit) -> None:
    deep: Any = {"exists": "a"}
    for _ in range(8):
        deep = {"not": deep}
    problem = await refused(kit, {"text": "a", "filter": deep})
    assert (problem["limit"], problem["value"]) == (8, 9)
    problem = await refused(kit, {"text": "a", "k": 101})
    assert (problem["limit"], problem["value"]) == (100, 101)


@pytest.mark.parametrize("body", [b"{", b"\xff", b"", b"[" * 10_000, b'{"text": NaN}'])
async def test_what_is_not_json(kit: Kit, body: bytes) -> None:
    headers = {"content-type": "application/json"}
    response = await kit.http.post("/v1/search", content=body, headers=headers)
    assert problem_of(response)["code"] == "invalid_json"


@pytest.mark.parametrize(
    "content_type", ["text/plain", "application/x-www-form-urlencoded", "", "multipart/form-data"]
)
async def test_only_json_is_read(kit: Kit, content_type: str) -> None:
    headers = {"content-type": content_type} if content_type else {}
    response = await kit.http.post("/v1/search", content=b'{"text":"a"}', headers=headers)
    assert (problem_of(response)["code"], response.status_code) == ("content_type", 415)


async def test_a_body_over_the_limit_is_refused_while_it_is_read() -> None:
    kit = Kit(body_bytes_max=1000)
    assert (await refused(kit, {"text": "x" * 2000}))["limit"] == 1000
    sent = 0

    async def endless() -> Any:
        nonlocal sent
        while sent < 1_000_000:
            sent += 500
            yield b" " * 500

    headers = {"content-type": "application/json"}
    response = await kit.http.post("/v1/search", content=endless(), headers=headers)
    assert (problem_of(response)["code"], response.status_code) == ("too_large", 413)


async def test_a_picture_over_the_limit() -> None:
    kit = Kit(image_bytes_max=10)
    image = base64.b64encode(b"x" * 11).decode()
    problem = await refused(kit, {"image": image})
    assert (problem["status"], problem["limit"], problem["value"]) == (413, 10, 11)


async def test_a_picture_that_cannot_be_decoded(kit: Kit) -> None:
    async def image(_: bytes) -> Any:
        raise RejectedRecord("image_format", "image: of no known format", field="image")

    kit.queries.image = image  # type: ignore[method-assign]
    problem = await refused(kit, {"image": "AAAA"})
    assert (problem["status"], problem["code"]) == (400, "image_format")


async def test_not_ready(kit: Kit) -> None:
    kit.index.ready = False
    problem = await refused(kit, {"text": "a"})
    assert (problem["status"], problem["code"]) == (503, "not_ready")
    assert "replaying" in problem["detail"]


async def test_timeout_s_bounds_the_whole_answer(kit: Kit) -> None:
    async def gate() -> None:
        await asyncio.sleep(10)

    kit.index.gate = gate
    problem = await refused(kit, {"text": "a", "timeout_s": 0.05})
    assert (problem["status"], problem["code"]) == (504, "timed_out")


async def test_a_defect_leaks_nothing(kit: Kit) -> None:
    from structlog.testing import capture_logs

    async def gate() -> None:
        raise ZeroDivisionError("secret")

    kit.index.gate = gate
    with capture_logs() as logs:
        response = await kit.http.post("/v1/search", json={"text": "a"})
    assert problem_of(response)["code"] == "internal"
    assert "secret" not in response.text
    assert "secret" in logs[0]["error"]


async def test_an_unknown_path_and_a_wrong_method(kit: Kit) -> None:
    assert problem_of(await kit.http.get("/v2/search"))["code"] == "not_found"
    response = await kit.http.get("/v1/search")
    assert problem_of(response)["code"] == "method_not_allowed"
    assert response.headers["allow"] == "POST"


async def test_behind_s_counts_the_encoder_but_not_what_is_indexed_by_now(kit: Kit) -> None:
    group = "tidelens.index.hash-v1.0.0"
    late = Lag("index", group, "tidelens.embeddings.hash-v1.captions", 0, 0, 1, 1, 9.0, "hash-v1")
    kit.lag.lags = [late]
    await kit.http.get("/v1/lag")
    assert (await search(kit, text="a"))["behind_s"] == 0.0, "the group's offset comes late"
    encode = replace(late, role="encode", group="tidelens.encode.hash-v1", topic="tidelens.images")
    kit.lag.lags = [late, encode]
    await kit.http.get("/v1/lag")
    assert (await search(kit, text="a"))["behind_s"] == 9.0


async def test_the_time_of_a_search_is_counted_by_outcome(kit: Kit) -> None:
    await search(kit, text="a")
    await refused(kit, {})
    count = "tidelens_search_seconds_count"
    assert kit.sample(count, {"outcome": "ok"}) == 1
    assert kit.sample(count, {"outcome": "RejectedRequest"}) == 1


async def test_an_item_changing_during_the_search_is_searched_with_its_new_vector(kit: Kit) -> None:
    target: Target = "captions"

    async def gate() -> None:
        kit.index.gate = None
        kit.index.put(target, "c", kit.text("red cat"))

    kit.index.gate = gate
    answer = await search(kit, id="c", of="captions", k=2)
    assert ids(answer) == ["a", "c"]
    assert kit.index.searches == 2


async def test_a_version_of_another_log_is_another_version(kit: Kit) -> None:
    """A new log begins at offset 0 again, so an equal offset may be another record."""
    vector = kit.text("red cat")
    asked = ResolvedQuery(PreparedQuery("images", [], k=2), vector, {}, kit.index.epoch)
    assert await asked.is_still_valid(kit.index)
    kit.index.restart("epoch-2")
    assert not await asked.is_still_valid(kit.index)
