"""Request bodies: counted before they are parsed, large ones in a thread and one at a time."""

import asyncio
import base64
import threading
from typing import Any

import orjson
import pytest

from api.http.bodies import count_values
from contracts.errors import RejectedRecord
from contracts.wire.data_uri import decode_base64
from tests.kits.api_kit import Kit

pytestmark = pytest.mark.anyio

JSON = {"content-type": "application/json"}
LARGE = {"text": "x" * 9_000, "target": "captions", "filter": {"in": {"a": ["y" * 4000] * 9}}}


def test_values_are_counted_in_any_form() -> None:
    for body in ([1, 2, 3], {"a": [{}, {"b": 1}]}, "text"):
        raw = orjson.dumps(body)
        assert count_values(raw) == count_values(raw.decode())
    assert count_values(b"[1,2,3]") == 4
    assert count_values(b'{"a":1,"b":[]}') == 1 + 2 * 2 + 3 * 2


async def test_too_many_values_are_refused_before_they_are_parsed() -> None:
    kit = Kit(body_values_max=1000)
    query = {"vector": [0.5] * 64, "target": "captions"}
    assert (await kit.http.post("/v1/search", json=query)).status_code == 200
    response = await kit.http.post("/v1/search", json=[query] * 20)
    problem = response.json()
    assert (response.status_code, problem["code"]) == (413, "too_many")
    assert (problem["field"], problem["limit"]) == ("body", 1000)
    assert problem["value"] > 1000
    broken = await kit.http.post("/v1/search", content=b"[" * 600, headers=JSON)
    assert broken.json()["code"] == "too_many"


async def test_a_small_body_is_parsed_here_and_large_ones_one_at_a_time_elsewhere(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    kit, release = Kit(), threading.Event()
    threads: list[threading.Thread] = []
    running, most = 0, 0

    def parsed(body: Any, *, queries_max: int) -> list[Any]:
        nonlocal running, most
        threads.append(threading.current_thread())
        if threads[-1] is not threading.main_thread():
            running += 1
            most = max(most, running)
            release.wait(10)
            running -= 1
        return []

    monkeypatch.setattr("api.endpoints.search.parse_queries", parsed)
    await kit.http.post("/v1/search", json=[{"text": "x"}])
    assert threads == [threading.main_thread()]
    asking = [asyncio.create_task(kit.http.post("/v1/search", json=[LARGE])) for _ in range(3)]
    while len(threads) < 2:
        await asyncio.sleep(0.001)
    await kit.http.post("/v1/search", json=[{"text": "x"}])
    assert threads[2:] == [threading.main_thread()], "a small one does not wait for them"
    release.set()
    for one in asking:
        assert (await one).json() == []
    assert threads.count(threading.main_thread()) == 2
    assert (len(threads), most) == (5, 1)


async def test_what_is_wrong_with_a_large_one_is_told() -> None:
    kit = Kit()
    response = await kit.http.post("/v1/search", json=[{**LARGE, "filter": {"x": "y" * 40_000}}])
    assert (response.status_code, response.json()["code"]) == (400, "invalid_filter")
    response = await kit.http.post("/v1/search", content=b'["' + b"x" * 40_000, headers=JSON)
    assert (response.status_code, response.json()["code"]) == (400, "invalid_json")


def test_long_base64_is_decoded_in_pieces() -> None:
    for size in (0, 1, 786_431, 786_432, 786_433, 3_000_001):
        data = bytes(size // 2) + b"\xff" * (size - size // 2)
        assert decode_base64(base64.b64encode(data).decode(), "image") == data
    long = base64.b64encode(bytes(2_000_000)).decode()
    padded = base64.b64encode(bytes(786_431)).decode()
    for wrong in (long[:-1], long + "A", padded + long, long + "=", long + "ä", "=" + long[1:]):
        with pytest.raises(RejectedRecord, match="not base64"):
            decode_base64(wrong, "image")
