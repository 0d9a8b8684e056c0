"""References to pictures in S3, on a real server."""

import asyncio
import hashlib

import httpx
import pytest

from consumers.references import ReferenceLimits, References
from contracts.errors import RejectedRecord
from tests.kits.s3_fixture import S3Link

pytestmark = [pytest.mark.anyio, pytest.mark.s3, pytest.mark.timeout(240)]

DATA = b"a picture"


def limits(*buckets: str) -> ReferenceLimits:
    return ReferenceLimits(
        schemes=frozenset({"s3"}), bytes_max=1000, buckets=frozenset(buckets), timeout_s=20
    )


async def read(references: References, ref: str, sha256: str | None = None) -> bytes:
    async with references.read(ref, sha256) as data:
        return data


async def put(s3: S3Link, bucket: str, key: str, data: bytes) -> None:
    async with httpx.AsyncClient(timeout=60) as client:
        (await client.put(f"{s3.url}/{bucket}/{key}", content=data)).raise_for_status()


async def test_pictures_in_buckets(s3: S3Link) -> None:
    bucket, other = await s3.new_bucket(), await s3.new_bucket()
    await put(s3, bucket, "deep/a.png", DATA)
    await put(s3, bucket, "large.png", bytes(1001))
    await put(s3, other, "a.png", DATA)
    async with References(limits(bucket, "no-such-bucket")) as references:
        digest = hashlib.sha256(DATA).hexdigest()
        assert await read(references, f"s3://{bucket}/deep/a.png", digest) == DATA
        for ref, sha256, code in [
            (f"s3://{bucket}/deep/a.png", "0" * 64, "reference_changed"),
            (f"s3://{bucket}/none.png", None, "reference_missing"),
            ("s3://no-such-bucket/a.png", None, "reference_missing"),
            (f"s3://{bucket}/large.png", None, "image_too_large_bytes"),
            (f"s3://{other}/a.png", None, "reference_forbidden"),
        ]:
            with pytest.raises(RejectedRecord) as caught:
                await read(references, ref, sha256)
            assert caught.value.code == code, ref


async def test_a_reference_waits_for_s3(s3: S3Link) -> None:
    bucket = await s3.new_bucket()
    await put(s3, bucket, "a.png", DATA)
    await s3.stop()
    async with References(limits(bucket)) as references:
        reading = asyncio.create_task(read(references, f"s3://{bucket}/a.png"))
        async with asyncio.timeout(90):
            while not references.waiting:
                await asyncio.sleep(0.05)
        await s3.start()
        assert await reading == DATA
        assert references.waiting == 0
