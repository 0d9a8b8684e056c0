"""Snapshots in S3, on a real server: multipart, outages, a missing bucket."""

import asyncio
from pathlib import Path

import pytest

from contracts.errors import ConfigurationError
from contracts.metrics import Metrics
from contracts.settings import KafkaSettings, Settings
from contracts.testing.clock import ManualClock
from index_store.snapshot.store import SnapshotStore
from index_store.storage import s3 as module
from index_store.storage.open import open_blob_store
from index_store.storage.s3 import S3BlobStore
from streams.maintainer.snapshot_schedule import SnapshotSchedule
from tests.kits.index_kit import IMAGES, batch, filled, new_index, new_spill, record, vectors
from tests.kits.s3_fixture import S3Link
from tidelens.cli.doctor.bucket import bucket as examine_bucket

pytestmark = [pytest.mark.anyio, pytest.mark.s3, pytest.mark.timeout(120)]

PREFIX = "unit-v1/0/0/"


async def test_blobs_come_back_whole(s3: S3Link, tmp_path: Path) -> None:
    bucket = await s3.new_bucket()
    # The least that S3 takes as a part.
    async with S3BlobStore.open(bucket, "deep/prefix", part_bytes=5 * module.MIB) as store:
        large = tmp_path / "large"
        large.write_bytes(bytes(range(256)) * 50_000)  # 12.8 MB: three parts
        await store.upload("a/large", large)
        assert await store.read("a/large") == large.read_bytes()
        (tmp_path / "copies").mkdir()
        copy = await store.local("a/large", tmp_path / "copies")
        assert copy.read_bytes() == large.read_bytes()
        await store.write("a/small", b"1")
        await store.write("b", b"")
        assert await store.list("a/") == ["a/large", "a/small"]
        await store.delete("a/small")
        await store.delete("a/small")
        assert await store.list("") == ["a/large", "b"]
        with pytest.raises(KeyError):
            await store.read("a/small")
        with pytest.raises(KeyError):
            await store.local("a/small", tmp_path)
    async with S3BlobStore.open(bucket, "other") as other:
        assert await other.list("") == []


async def test_a_torn_upload_leaves_nothing(
    s3: S3Link, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bucket = await s3.new_bucket()
    async with S3BlobStore.open(bucket, "", part_bytes=5 * module.MIB) as store:
        large = tmp_path / "large"
        large.write_bytes(bytes(12 * module.MIB))
        real = module._slice

        def torn(path: Path, start: int, size: int) -> bytes:
            if start:
                raise OSError("the disk is gone")
            return real(path, start, size)

        monkeypatch.setattr(module, "_slice", torn)
        with pytest.raises(OSError, match="the disk is gone"):
            await store.upload("large", large)
        assert await store.list("") == []
        uploads = await store._client.list_multipart_uploads(Bucket=bucket)
        assert not uploads.get("Uploads")


async def test_more_keys_than_a_page_has(s3: S3Link) -> None:
    bucket = await s3.new_bucket()
    async with S3BlobStore.open(bucket, "") as store:
        names = [f"{n:04}" for n in range(1010)]
        for start in range(0, 1010, 10):  # as many as there are connections
            await asyncio.gather(*(store.write(name, b"") for name in names[start : start + 10]))
        assert await store.list("") == names


async def test_a_missing_bucket_is_one_clear_line(s3: S3Link, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="there is no bucket 'nowhere'; create it first"):
        async with open_blob_store("s3://nowhere/prefix", tmp_path):
            pass
    with pytest.raises(ConfigurationError, match=r"want file:PATH or s3://BUCKET/PREFIX, got 'x'"):
        async with open_blob_store("x", tmp_path):
            pass


async def test_a_snapshot_in_s3_and_an_outage(s3: S3Link, tmp_path: Path) -> None:
    bucket = await s3.new_bucket()
    async with open_blob_store(f"s3://{bucket}/snapshots", tmp_path) as store:
        snapshots, index = SnapshotStore(store, PREFIX, new_spill(), kept=1), filled(vectors(100))
        await snapshots.write(index)
        before = index.digests()
        index.apply(batch(record(index.positions[IMAGES], "i0001", None)))
        await s3.stop()
        with pytest.raises(OSError, match=f"s3://{bucket}"):
            await snapshots.write(index)
        await s3.start()
        elsewhere = SnapshotStore(store, PREFIX, new_spill(), kept=1)
        restored = await elsewhere.restore(new_index())
        assert restored is not None
        assert restored.digests() == before
        assert restored.digests_match()
        # And it goes on once the server is back.
        name = await snapshots.write(index)
        await elsewhere.verify(f"0/{name}", new_index())


async def test_parts_that_somebody_deleted_are_written_again(s3: S3Link, tmp_path: Path) -> None:
    bucket = await s3.new_bucket()
    async with open_blob_store(f"s3://{bucket}/snapshots", tmp_path) as store:
        snapshots, index = SnapshotStore(store, PREFIX, new_spill(), kept=1), filled(vectors(100))
        await snapshots.write(index)
        parts = await store.sizes(f"{PREFIX}parts/")
        assert len(parts) == 4
        for blob in parts:
            await store.delete(blob)
        await snapshots.own.update_incomplete()
        assert [len(blobs) for blobs in snapshots.own.incomplete.values()] == [4]
        name = await snapshots.write(index)
        assert await store.sizes(f"{PREFIX}parts/") == parts
        await snapshots.verify(f"0/{name}", new_index())


async def test_the_doctor_does_with_a_bucket_what_nodes_do(s3: S3Link) -> None:
    settings = Settings(snapshots=f"s3://{await s3.new_bucket()}/p")
    [found] = await examine_bucket(settings, KafkaSettings())
    assert (found.state, found.detail.rpartition(": ")[2]) == (
        "ok",
        "written, read, listed, deleted",
    )


async def test_a_server_that_is_away_at_the_start_is_no_reason_not_to_start(
    s3: S3Link, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bucket = await s3.new_bucket()
    async with open_blob_store(f"s3://{bucket}/p", tmp_path) as store:
        await SnapshotStore(store, PREFIX, new_spill(), kept=1).write(filled(vectors(10)))
    await s3.stop()
    # The schedule itself tries again; the client's own attempts took half a minute.
    monkeypatch.setattr("streams.maintainer.snapshot_schedule._RESTORE_PAUSES_S", (0.1, 0.1))
    async with S3BlobStore.open(bucket, "p", attempts=2) as store:
        snapshots = SnapshotStore(store, PREFIX, new_spill(), kept=1)
        snapshot_schedule = SnapshotSchedule(
            snapshots, Metrics(), ManualClock(), every_s=1, every_records=1, refresh_s=1
        )
        assert await snapshot_schedule.restore(new_index()) is None
        await s3.start()
        restored = await snapshot_schedule.restore(new_index())
        assert restored is not None
        assert restored.count("images") == 10
