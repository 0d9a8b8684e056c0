"""Lag, status, metrics, alive and ready; and what they say when the broker is away."""

import asyncio
from dataclasses import replace
from math import isnan
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from api.app import background
from contracts.errors import BrokerUnavailable, SnapshotFailed
from contracts.ports.lag import Lag
from contracts.wire.http_answers import LagAnswer, Readiness, Status
from index_store.storage.local import LocalBlobStore
from streams.maintainer.snapshot_schedule import SnapshotSchedule
from tests.kits.api_kit import Kit
from tests.kits.index_kit import filled, snapshots_in, vectors

pytestmark = pytest.mark.anyio
LAG = Lag("encode", "tidelens.encode.hash-v1", "tidelens.images", 1, 3, 5, 2, 4.0, "hash-v1")
LABELS = {"role": "encode", "group": LAG.group, "topic": LAG.topic, "partition": "1"}


async def test_alive() -> None:
    assert (await Kit().http.get("/healthz")).json() == {"alive": True}


async def test_ready_tells_the_broker_and_how_far_behind() -> None:
    kit = Kit()
    kit.lag.lags = [LAG]
    await kit.http.get("/v1/lag")
    response = await kit.http.get("/readyz")
    Readiness.model_validate_json(response.content)
    assert response.status_code == 200
    body = {"ready": True, "reason": None, "broker": "reachable", "behind_s": 4.0}
    assert response.json() == body | {"snapshot": None, "topics": None, "parts": []}


async def test_a_snapshot_that_failed_is_told_and_does_not_make_it_unready(tmp_path: Path) -> None:
    kit = Kit()
    (tmp_path / "file").touch()
    snapshots = snapshots_in(LocalBlobStore(tmp_path / "file" / "store"))
    snapshot_schedule = SnapshotSchedule(
        snapshots, kit.metrics, kit.clock, every_s=60, every_records=100, refresh_s=900
    )
    kit.status["snapshot"] = snapshot_schedule.describe()
    nothing = {"last": None, "failure": None, "chosen": None, "lacking": {}}
    assert (await kit.http.get("/readyz")).json()["snapshot"] == nothing
    with pytest.raises(SnapshotFailed):
        await snapshot_schedule.write(filled(vectors(3)))
    kit.status["snapshot"] = snapshot_schedule.describe()
    for path, answer in (("/readyz", Readiness), ("/v1/status", Status)):
        response = await kit.http.get(path)
        answer.model_validate_json(response.content)
        assert (response.status_code, response.json()["ready"]) == (200, True)
        failure = response.json()["snapshot"]["failure"]
        assert "Not a directory" in failure["reason"]
        assert failure["at"] == kit.clock.now()
    text = (await kit.http.get("/metrics")).text
    assert 'tidelens_snapshots_total{outcome="failed"} 1.0' in text
    assert kit.sample("tidelens_snapshot_failure_timestamp_seconds") == kit.clock.now()


async def test_not_ready_tells_why() -> None:
    kit = Kit()
    kit.index.ready = False
    response = await kit.http.get("/readyz")
    assert (response.status_code, response.json()["ready"]) == (503, False)
    assert "replaying" in response.json()["reason"]
    status = await kit.http.get("/v1/status")
    Status.model_validate_json(status.content)
    assert (status.status_code, status.json()["items"]) == (200, None)


async def test_a_lost_broker_does_not_make_it_unready() -> None:
    kit = Kit()
    kit.lag.lags = [LAG]
    assert (await kit.http.get("/v1/lag")).json()["broker"] == "reachable"
    kit.lag.error = BrokerUnavailable("no broker")
    with capture_logs() as logs:
        for _ in range(3):
            lag = (await kit.http.get("/v1/lag")).json()
        assert len(logs) == 1, "told once, not every second"
        kit.lag.error = BrokerUnavailable("broker 1 cannot be reached")
        for _ in range(3):
            lag = (await kit.http.get("/v1/lag")).json()
    assert [line["error"] for line in logs] == ["no broker", "broker 1 cannot be reached"]
    assert (lag["broker"], len(lag["partitions"])) == ("unreachable", 1)
    ready = await kit.http.get("/readyz")
    assert (ready.status_code, ready.json()["broker"]) == (200, "unreachable")
    assert ready.json()["behind_s"] == 4.0, "of what is known to wait"
    kit.lag.error = None
    with capture_logs() as logs:
        await kit.http.get("/v1/lag")
    assert [entry["event"] for entry in logs] == ["the broker answers again"]


async def test_a_lag_that_cannot_be_measured_is_unknown_and_not_what_it_was() -> None:
    kit = Kit()
    kit.lag.lags = [LAG]
    await kit.http.get("/v1/lag")
    assert (await kit.http.get("/readyz")).json()["behind_s"] == 4.0
    kit.lag.error = KeyError("unforeseen")
    measured = background(kit.app)["freshness"]
    with capture_logs():
        assert not await kit.node.side.run_step("freshness", measured)
    ready = (await kit.http.get("/readyz")).json()
    assert (ready["ready"], ready["broker"], ready["behind_s"]) == (True, "unknown", None)
    assert isnan(kit.sample("tidelens_behind_seconds") or 0)


async def test_lag_row_by_row() -> None:
    kit = Kit()
    kit.lag.lags = [LAG]
    response = await kit.http.get("/v1/lag")
    LagAnswer.model_validate_json(response.content)
    [row] = response.json()["partitions"]
    assert row == {
        "role": "encode",
        "group": "tidelens.encode.hash-v1",
        "topic": "tidelens.images",
        "partition": 1,
        "position": 3,
        "end": 5,
        "records": 2,
        "seconds": 4.0,
        "space": "hash-v1",
        "high_watermark": 5,
        "unstable": 0,
        "unstable_seconds": 0.0,
        "members": None,
        "gone": False,
    }
    assert response.json()["space"] == "hash-v1"


async def test_what_the_broker_does_not_tell_is_shown_as_unknown() -> None:
    kit = Kit()
    assert isnan(kit.sample("tidelens_behind_seconds"))
    kit.lag.lags = [LAG]
    await kit.http.get("/v1/lag")
    assert kit.sample("tidelens_lag_records", LABELS) == 2
    read_at = kit.clock.now()
    kit.clock.advance(60)
    kit.lag.error = BrokerUnavailable("no broker")
    await kit.http.get("/v1/lag")
    assert isnan(kit.sample("tidelens_lag_records", LABELS))
    assert isnan(kit.sample("tidelens_lag_seconds", LABELS))
    assert kit.sample("tidelens_lag_read_timestamp_seconds") == read_at
    assert kit.sample("tidelens_behind_seconds") == 4, "of what is known to wait"
    kit.lag.error, kit.lag.lags = None, [replace(LAG, records=0, seconds=0.0)]
    await kit.http.get("/v1/lag")
    assert kit.sample("tidelens_behind_seconds") == 0
    assert kit.sample("tidelens_lag_read_timestamp_seconds") == kit.clock.now()
    kit.lag.error = BrokerUnavailable("no broker")
    assert (await kit.http.get("/v1/lag")).json()["behind_s"] is None
    assert isnan(kit.sample("tidelens_behind_seconds"))


async def test_others_are_shown_but_this_node_is_not_behind_for_them() -> None:
    kit = Kit()
    topic = "tidelens.embeddings.hash-v1.images"
    replica = Lag("index", "tidelens.index.hash-v1.0.9", topic, 0, 0, 9, 9, 50.0, "hash-v1")
    beside = replace(LAG, group="tidelens.encode.new", seconds=99.0, space="new")
    kit.lag.lags = [LAG, replica, beside]
    answer = (await kit.http.get("/v1/lag")).json()
    assert [row["seconds"] for row in answer["partitions"]] == [4.0, 50.0, 99.0]
    assert answer["behind_s"] == 4.0
    shown = {"role": "index", "group": replica.group, "topic": topic, "partition": "0"}
    assert kit.sample("tidelens_lag_records", shown) == 9
    # Its own metrics, under its own space, show what is beside.
    assert kit.sample("tidelens_lag_records", LABELS | {"group": beside.group}) is None
    kit.lag.lags = [LAG]
    await kit.http.get("/v1/lag")
    assert kit.sample("tidelens_lag_records", shown) is None, "a group that is gone"


async def test_an_index_node_that_does_not_run_is_gone_and_an_encoder_is_missed() -> None:
    kit = Kit()
    topic = "tidelens.embeddings.hash-v1.images"
    stopped = Lag("index", "tidelens.index.hash-v1.0.9", topic, 0, 0, 9, 9, 50.0, "hash-v1")
    kit.lag.lags = [replace(LAG, members=0), replace(stopped, members=0)]
    answer = (await kit.http.get("/v1/lag")).json()
    LagAnswer.model_validate(answer)
    assert [row["gone"] for row in answer["partitions"]] == [False, True]
    # What is published waits for the encoder that is missing.
    assert answer["behind_s"] == 4.0
    assert kit.sample("tidelens_lag_records", LABELS) == 2
    shown = {"role": "index", "group": stopped.group}
    assert kit.sample("tidelens_lag_records", {**shown, "topic": topic, "partition": "0"}) is None
    assert kit.sample("tidelens_group_members", shown) == 0
    assert kit.sample("tidelens_group_members", {"role": "encode", "group": LAG.group}) == 0
    kit.lag.error = BrokerUnavailable("no broker")
    await kit.http.get("/v1/lag")
    assert isnan(kit.sample("tidelens_group_members", shown))
    kit.lag.error, kit.lag.lags = None, [replace(LAG, members=1), replace(stopped, members=1)]
    await kit.http.get("/v1/lag")
    assert kit.sample("tidelens_lag_records", {**shown, "topic": topic, "partition": "0"}) == 9


async def test_what_an_open_transaction_holds_back_is_behind() -> None:
    kit = Kit()
    held = replace(LAG, position=5, records=0, seconds=0.0, unstable=3, unstable_seconds=40.0)
    kit.lag.lags = [held]
    answer = (await kit.http.get("/v1/lag")).json()
    [row] = answer["partitions"]
    assert (row["records"], row["end"], row["high_watermark"]) == (0, 5, 8)
    assert answer["behind_s"] == 40.0
    assert (await kit.http.get("/readyz")).json()["behind_s"] == 40.0
    assert kit.sample("tidelens_behind_seconds") == 40
    where = {"topic": LAG.topic, "partition": "1"}
    assert kit.sample("tidelens_unstable_records", where) == 3
    assert kit.sample("tidelens_unstable_seconds", where) == 40
    # Kafka counts it in each group's lag; here it counts once, for the partition.
    assert kit.sample("tidelens_lag_records", LABELS) == 0
    kit.lag.lags = [LAG]
    await kit.http.get("/v1/lag")
    assert kit.sample("tidelens_unstable_records", where) is None


async def test_this_node_is_behind_for_what_is_unstable_until_it_has_it() -> None:
    kit = Kit()
    kit.caption("a", "red cat")
    group = kit.node.names.index_group("0", "0")
    topic = kit.node.names.embeddings("captions")
    at = kit.index.as_of().offsets["captions"][0]
    row = Lag("index", group, topic, 0, 0, at, 2, 9.0, "hash-v1", 1, 7.0)
    kit.lag.lags = [row]
    assert (await kit.http.get("/v1/lag")).json()["behind_s"] == 7.0, "of what is held back"
    kit.lag.lags = [replace(row, end=at - 1)]
    assert (await kit.http.get("/v1/lag")).json()["behind_s"] == 0.0, "it is here by now"
    kit.lag.lags = [replace(row, end=at + 1)]
    assert (await kit.http.get("/v1/lag")).json()["behind_s"] == 9.0


async def test_it_is_measured_in_the_background() -> None:
    kit = Kit()
    kit.lag.lags = [LAG]
    running = asyncio.create_task(background(kit.app)["freshness"]())
    await kit.until("tidelens_behind_seconds", 4)
    assert (await kit.http.get("/readyz")).json()["behind_s"] == 4.0
    assert kit.sample("tidelens_lag_records", LABELS) == 2
    assert kit.sample("tidelens_lag_seconds", LABELS) == 4
    assert kit.sample("tidelens_behind_seconds") == 4
    running.cancel()


async def test_status() -> None:
    kit = Kit()
    kit.caption("a", "red cat")
    response = await kit.http.get("/v1/status")
    Status.model_validate_json(response.content)
    status = response.json()
    assert status["items"] == {"images": 0, "captions": 1}
    assert status["space"]["name"] == "hash-v1"
    assert status["space"]["fingerprint"] == kit.node.space.fingerprint.hex()
    assert status["as_of"]["offsets"] == {"images": [0, 0], "captions": [1, 0]}
    assert status["dead_letters_last_hour"] == {}, "what the wiring adds"


async def test_metrics_in_prometheus_text() -> None:
    response = await Kit().http.get("/metrics")
    assert response.headers["content-type"].startswith("text/plain; version=")
    assert "# TYPE tidelens_live_connections gauge" in response.text


async def test_the_schemas_are_served() -> None:
    kit = Kit()
    assert (await kit.http.get("/openapi.json")).json()["openapi"] == "3.1.0"
    assert (await kit.http.get("/asyncapi.json")).json()["asyncapi"] == "3.0.0"
