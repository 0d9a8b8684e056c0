"""The operator's endpoints: what is asked, and how failures come back."""

from collections.abc import AsyncIterator

import pytest

from contracts.errors import (
    NotReady,
    RebuildFailed,
    SnapshotFailed,
    SnapshotRefused,
    TidelensError,
)
from tests.kits.api_kit import Kit

pytestmark = pytest.mark.anyio


@pytest.fixture
async def kit() -> AsyncIterator[Kit]:
    made = Kit()
    yield made
    await made.http.aclose()


async def test_each_asks_the_index(kit: Kit) -> None:
    assert (await kit.http.post("/v1/admin/snapshot")).json() == {"name": "1"}
    rebuilt = (await kit.http.post("/v1/admin/rebuild")).json()["rebuilt"]
    assert [one["target"] for one in rebuilt] == ["images", "captions"]
    some = await kit.http.post("/v1/admin/rebuild", json={"targets": ["captions"]})
    assert some.json() == {"rebuilt": [{"target": "captions"}]}
    assert (await kit.http.get("/v1/admin/segments")).json() == {"segments": [{"kind": "Flat"}]}
    assert (await kit.http.post("/v1/admin/verify")).json()["verified"] is True
    restored = await kit.http.post("/v1/admin/restore", json={"name": "0/1"})
    assert restored.json() == {"name": "0/1"}
    asked = ["snapshot", "rebuild", "rebuild", "segments", "verify", "restore"]
    assert kit.admin.asked == asked


@pytest.mark.parametrize("body", [{"targets": "images"}, {"targets": ["pictures"]}, []])
async def test_unknown_targets_are_refused(kit: Kit, body: object) -> None:
    response = await kit.http.post("/v1/admin/rebuild", json=body)
    assert response.status_code == 400
    assert response.json()["field"] == "targets"
    assert kit.admin.asked == []


@pytest.mark.parametrize("body", [{}, [], {"name": 1}, {"name": "1/2"}, {"name": "2"}])
async def test_only_own_snapshots_can_be_chosen(kit: Kit, body: object) -> None:
    response = await kit.http.post("/v1/admin/restore", json=body)
    assert response.status_code == 400
    assert response.json()["field"] == "name"
    assert kit.admin.asked == []


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (SnapshotFailed("the snapshot could not be written: no space"), 503, "snapshot_failed"),
        (SnapshotRefused("0/1: missing"), 409, "snapshot_refused"),
        (RebuildFailed("images: no space"), 500, "rebuild_failed"),
        (NotReady("this node has no index yet"), 503, "not_ready"),
    ],
)
async def test_failures_are_problems(
    kit: Kit, error: TidelensError, status: int, code: str
) -> None:
    kit.admin.error = error
    response = await kit.http.post("/v1/admin/snapshot")
    assert response.status_code == status
    assert response.json()["code"] == code
    assert response.json()["detail"] == str(error)


async def test_pages_of_others_may_not_ask(kit: Kit) -> None:
    response = await kit.http.post("/v1/admin/rebuild", headers={"origin": "http://evil.example"})
    assert response.status_code == 403
    assert kit.admin.asked == []


async def test_queries_asked_lately(kit: Kit) -> None:
    assert (await kit.http.get("/v1/admin/queries")).json() == {"texts": []}
