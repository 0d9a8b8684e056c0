"""Blobs in S3, or in anything that speaks its protocol.

Credentials, region and endpoint come from the standard AWS variables and files, as every AWS tool
reads them (AWS_ENDPOINT_URL or AWS_ENDPOINT_URL_S3 for another server).
"""

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, TypeVar

import aiohttp
import structlog
from aiobotocore.config import AioConfig
from aiobotocore.session import get_session
from botocore.exceptions import BotoCoreError, ClientError

from contracts.errors import ConfigurationError

log = structlog.get_logger(__name__)

MIB = 1024 * 1024
_PART_BYTES = 16 * MIB
_PARTS_AT_ONCE = 4
_READ_BYTES = 4 * MIB
_CONNECT_S = 5
_READ_S = 30
_ATTEMPTS = 4
# Botocore asks again until an answer begins, not for one that is cut off in its body.
_BODY_ATTEMPTS = 3

_MISSING = {"NoSuchKey", "404", "NotFound"}
# No answer, or half of one: aiohttp's own error comes through where a body is cut off.
_AWAY = (BotoCoreError, aiohttp.ClientError, TimeoutError)

T = TypeVar("T")


class S3Blobs:
    """The BlobStore port; names are keys below `prefix`. Open it with `opened`."""

    def __init__(
        self, client: Any, bucket: str, prefix: str, *, part_bytes: int = _PART_BYTES
    ) -> None:
        self._client = client
        self._bucket = bucket
        self._prefix = f"{prefix.strip('/')}/" if prefix.strip("/") else ""
        self._part_bytes = part_bytes

    @classmethod
    @asynccontextmanager
    async def opened(
        cls, bucket: str, prefix: str, *, part_bytes: int = _PART_BYTES
    ) -> AsyncIterator["S3Blobs"]:
        """Raises ConfigurationError when there is no such bucket.

        A server that does not answer now may later: that is for those who read and write to wait.
        """
        config = AioConfig(
            connect_timeout=_CONNECT_S,
            read_timeout=_READ_S,
            retries={"mode": "standard", "max_attempts": _ATTEMPTS},
        )
        with _translated(bucket, ""):
            # Reads its service descriptions from disk, on the loop: 0.2 s, at the start only.
            async with get_session().create_client("s3", config=config) as client:
                store = cls(client, bucket, prefix, part_bytes=part_bytes)
                await store._require_bucket()
                yield store

    async def _require_bucket(self) -> None:
        try:
            await self._client.head_bucket(Bucket=self._bucket)
        except ClientError as error:
            if _code(error) in {"404", "NoSuchBucket"}:
                raise ConfigurationError(
                    f"TIDELENS_SNAPSHOTS: there is no bucket {self._bucket!r}; create it first"
                ) from None
            log.warning("the bucket cannot be looked at", bucket=self._bucket, error=str(error))
        except _AWAY as error:
            log.warning("S3 does not answer", bucket=self._bucket, error=str(error))

    async def write(self, name: str, data: bytes | memoryview) -> None:
        """Raises OSError; then the blob is as it was."""
        with _translated(self._bucket, name):
            await self._client.put_object(
                Bucket=self._bucket, Key=self._key(name), Body=bytes(data)
            )

    async def upload(self, name: str, path: Path) -> None:
        """In parts when it is large; nothing is visible before the last. Raises OSError."""
        size = (await asyncio.to_thread(path.stat)).st_size
        if size <= self._part_bytes:
            await self.write(name, await asyncio.to_thread(path.read_bytes))
            return
        where = {"Bucket": self._bucket, "Key": self._key(name)}
        with _translated(self._bucket, name):
            upload = (await self._client.create_multipart_upload(**where))["UploadId"]
            try:
                parts = await self._upload_parts(where | {"UploadId": upload}, path, size)
                await self._client.complete_multipart_upload(
                    **where, UploadId=upload, MultipartUpload={"Parts": parts}
                )
            except BaseException:
                # Parts that are left cost money and nobody lists them.
                await self._client.abort_multipart_upload(**where, UploadId=upload)
                raise

    async def read(self, name: str) -> bytes:
        """Raises KeyError when there is no such blob, OSError when it cannot be had."""

        async def take(body: Any) -> bytes:
            data: bytes = await body.read()
            return data

        return await self._received(name, take)

    async def local(self, name: str, folder: Path) -> Path:
        """A copy in `folder`, whole once it has its name. Raises KeyError, OSError."""
        path = folder / name.rpartition("/")[2]
        partial = path.with_name(f".{path.name}.{os.getpid()}.partial")

        async def take(body: Any) -> None:
            file = await asyncio.to_thread(partial.open, "wb")
            try:
                while data := await body.read(_READ_BYTES):
                    await asyncio.to_thread(file.write, data)
            finally:
                await asyncio.to_thread(file.close)

        try:
            await self._received(name, take)
            await asyncio.to_thread(partial.rename, path)
        except OSError:
            # Half a blob would only keep a full disk full.
            await asyncio.to_thread(partial.unlink, missing_ok=True)
            raise
        return path

    async def _received(self, name: str, take: Callable[[Any], Awaitable[T]]) -> T:
        """What `take` makes of the blob's body, from its beginning where that was cut off."""
        attempt = 1
        while True:
            with _translated(self._bucket, name):
                answer = await self._client.get_object(Bucket=self._bucket, Key=self._key(name))
                try:
                    async with answer["Body"] as body:
                        return await take(body)
                except _AWAY as error:
                    if attempt == _BODY_ATTEMPTS:
                        raise
                    log.warning("a blob was cut off", blob=name, error=str(error), attempt=attempt)
            attempt += 1

    async def list(self, prefix: str) -> list[str]:
        """Names that begin with `prefix`, sorted. Raises OSError."""
        names: list[str] = []
        asked = {"Bucket": self._bucket, "Prefix": self._key(prefix)}
        with _translated(self._bucket, prefix):
            # By hand: botocore's paginator reads its description from disk at each first use.
            while True:
                page = await self._client.list_objects_v2(**asked)
                keys = (found["Key"] for found in page.get("Contents", ()))
                names += [key.removeprefix(self._prefix) for key in keys]
                if not page.get("IsTruncated"):
                    return sorted(names)
                asked["ContinuationToken"] = page["NextContinuationToken"]

    async def delete(self, name: str) -> None:
        with _translated(self._bucket, name):
            await self._client.delete_object(Bucket=self._bucket, Key=self._key(name))

    def _key(self, name: str) -> str:
        return self._prefix + name

    async def _upload_parts(
        self, where: dict[str, str], path: Path, size: int
    ) -> Sequence[dict[str, Any]]:
        few = asyncio.Semaphore(_PARTS_AT_ONCE)

        async def send(number: int, start: int) -> dict[str, Any]:
            async with few:
                data = await asyncio.to_thread(_slice, path, start, self._part_bytes)
                sent = await self._client.upload_part(**where, PartNumber=number, Body=data)
                return {"PartNumber": number, "ETag": sent["ETag"]}

        starts = range(0, size, self._part_bytes)
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(send(n, start)) for n, start in enumerate(starts, 1)]
        except ExceptionGroup as failed:
            raise failed.exceptions[0] from None
        return [task.result() for task in tasks]


def _slice(path: Path, start: int, size: int) -> bytes:
    with path.open("rb") as file:
        file.seek(start)
        return file.read(size)


def _code(error: ClientError) -> str:
    return str(error.response.get("Error", {}).get("Code", ""))


@contextmanager
def _translated(bucket: str, name: str) -> Iterator[None]:
    """Botocore's errors as those that a file would raise."""
    try:
        yield
    except ClientError as error:
        if _code(error) in _MISSING:
            raise KeyError(name) from None
        if _code(error) == "NoSuchBucket":
            raise OSError(f"s3://{bucket}: the bucket is gone") from None
        raise OSError(f"s3://{bucket}/{name}: {error}") from error
    except _AWAY as error:
        raise OSError(f"s3://{bucket}/{name}: {error}") from error
