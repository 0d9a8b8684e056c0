"""An answer from another server in the place of S3 is an error of the store, with its reason."""

from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from blockbuster import BlockBuster
from structlog.testing import capture_logs

from contracts.errors import ConfigurationError, SnapshotFailed
from contracts.metrics import Metrics
from contracts.testing.clock import ManualClock
from index_store.snapshot.store import SnapshotStore
from index_store.storage.s3 import S3BlobStore
from streams.maintainer.snapshot_schedule import SnapshotSchedule
from tests.faults.fake_s3 import FOREIGN, FakeS3, answer, fake_s3
from tests.kits.index_kit import IMAGES, batch, filled, new_index, new_spill, record, vectors

pytestmark = pytest.mark.anyio

PREFIX = "unit-v1/0/0/"
BUCKET = "s3://bucket"
NO_BUCKET = answer(
    "404 Not Found", b"<Error><Code>NoSuchBucket</Code><Message>none</Message></Error>"
)
# Each request is sent once, so that no test waits for the client's pauses between its attempts.
opened = partial(S3BlobStore.open, "bucket", "p", attempts=1)


@pytest.fixture
async def server(
    monkeypatch: pytest.MonkeyPatch, no_blocking_calls: BlockBuster
) -> AsyncIterator[FakeS3]:
    async with fake_s3(monkeypatch, no_blocking_calls) as fake:
        yield fake


def snapshot_schedule_of(store: S3BlobStore, metrics: Metrics | None = None) -> SnapshotSchedule:
    return SnapshotSchedule(
        SnapshotStore(store, PREFIX, new_spill(), kept=2),
        metrics or Metrics(),
        ManualClock(),
        every_s=60,
        every_records=100,
        refresh_s=900,
    )


async def outcome(call: Awaitable[Any]) -> str:
    """Return `told` if the call raises an OSError or SnapshotFailed that names the bucket shortly.

    Otherwise, return a description of what it returned or raised.
    """
    try:
        return f"returned {await call!r}"
    except Exception as error:
        told = isinstance(error, OSError | SnapshotFailed) and BUCKET in str(error)
        return "told" if told and len(str(error)) < 500 else f"raised {error!r}"


async def test_whatever_a_store_answers_the_snapshot_fails_with_its_reason_and_heals(
    server: FakeS3, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("streams.maintainer.snapshot_schedule._RESTORE_PAUSES_S", ())
    index, metrics, outcomes = filled(vectors(20)), Metrics(), {}
    async with opened() as store:
        snapshot_schedule = snapshot_schedule_of(store, metrics)
        for name, server.foreign in FOREIGN.items():
            restored = await snapshot_schedule.restore(new_index())
            outcomes[name] = restored, await outcome(snapshot_schedule.write(index))
            assert BUCKET in snapshot_schedule.describe()["failure"]["reason"], name
        assert outcomes == dict.fromkeys(FOREIGN, (None, "told"))
        failed = {"outcome": "failed"}
        count = metrics.registry.get_sample_value("tidelens_snapshots_total", failed)
        assert count == len(FOREIGN)
        server.foreign = None
        name = await snapshot_schedule.write(index)
        assert snapshot_schedule.describe()["failure"] is None
        await snapshot_schedule._snapshots.verify(f"0/{name}", new_index())


async def test_each_call_is_an_error_of_the_store(server: FakeS3, tmp_path: Path) -> None:
    """Only an answer in the form of S3 makes a missing blob a KeyError."""
    large = tmp_path / "large"
    large.write_bytes(bytes(100))
    async with opened(part_bytes=60, body_attempts=1) as store:
        calls: dict[str, Callable[[], Awaitable[Any]]] = {
            "write": lambda: store.write("a", b"1"),
            "upload": lambda: store.upload("a", large),
            "read": lambda: store.read("a"),
            "local": lambda: store.local("a", tmp_path),
            "list": lambda: store.list(""),
            "sizes": lambda: store.sizes("a/"),
        }
        outcomes = {}
        for name, server.foreign in FOREIGN.items():
            outcomes |= {(name, of): await outcome(call()) for of, call in calls.items()}
        assert {of: said for of, said in outcomes.items() if said != "told"} == {}
        server.foreign = None
        with pytest.raises(KeyError):
            await store.read("a")
    assert [path.name for path in tmp_path.iterdir()] == ["large"]


@pytest.mark.parametrize("foreign", ["an empty 404", "a login page", "nothing"])
async def test_a_store_that_is_away_at_the_start_is_no_reason_not_to_start(
    foreign: str, server: FakeS3
) -> None:
    server.foreign = FOREIGN[foreign]
    async with opened() as store:
        server.foreign = None
        await store.write("a", b"1")
        assert await store.read("a") == b"1"


async def test_a_start_does_not_wait_for_a_store_that_says_nothing(
    server: FakeS3, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The start would take minutes if it waited for all attempts at each request."""
    monkeypatch.setattr("streams.maintainer.snapshot_schedule._RESTORE_PAUSES_S", (0.0,))
    monkeypatch.setattr("index_store.snapshot.store._LISTED_S", 0.05)
    server.hangs = True
    with capture_logs() as logs:
        async with opened(open_s=0.05) as store:
            assert await snapshot_schedule_of(store).restore(new_index()) is None
    told = "the store did not list its snapshots in 0.05 s"
    assert [line["error"] for line in logs] == ["TimeoutError", told, told]


async def test_only_s3_itself_can_say_that_there_is_no_bucket(server: FakeS3) -> None:
    server.foreign = NO_BUCKET
    with pytest.raises(ConfigurationError, match="there is no bucket 'bucket'; create it first"):
        async with opened():
            pass


async def test_an_endpoint_that_cannot_be_is_one_clear_line(
    server: FakeS3, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "no endpoint")
    with pytest.raises(ConfigurationError, match=r"TIDELENS_SNAPSHOTS: .*no endpoint"):
        async with opened():
            pass


async def test_a_listing_that_never_ends_is_given_up(server: FakeS3) -> None:
    async with opened() as store:
        page = (
            b"<ListBucketResult><IsTruncated>true</IsTruncated>"
            b"<NextContinuationToken>again</NextContinuationToken></ListBucketResult>"
        )
        server.foreign = answer("200 OK", page)
        with pytest.raises(OSError, match="a page that nothing follows"):
            await store.list("")


@pytest.mark.parametrize("of", ["vectors", "columns", "alive", "manifest.json", "pointer"])
async def test_what_was_written_only_in_words_is_noticed_before_it_counts(
    of: str, server: FakeS3
) -> None:
    """The server answers a write as S3 does, but does not store anything."""
    index = filled(vectors(20))
    async with opened() as store:
        snapshot_schedule = snapshot_schedule_of(store)
        before = await snapshot_schedule.write(index)
        index.apply(batch(record(index.positions[IMAGES], "i0001", None)))
        server.forgets = lambda key: of in key
        if of in ("vectors", "columns"):
            # This index has a new segment, whose files are lost.
            index = filled(vectors(30))
        with pytest.raises(SnapshotFailed, match="written, but"):
            await snapshot_schedule.write(index)
        assert "written, but" in snapshot_schedule.describe()["failure"]["reason"]
        server.forgets = lambda key: False
        await snapshot_schedule._snapshots.verify(f"0/{before}", new_index())
        name = await snapshot_schedule.write(index)
        await snapshot_schedule._snapshots.verify(f"0/{name}", new_index())
