"""A blob store in S3, or in another server that speaks its protocol.

Something else may answer at the endpoint: a proxy without a server behind it, a login page, half an
answer. An answer that an S3 server would not give is an OSError.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

import aiohttp
import structlog
from botocore.exceptions import BotoCoreError, ClientError

from contracts.atomic_write import PartialFile
from contracts.errors import ConfigurationError
from contracts.s3_client import error_code, s3_client

log = structlog.get_logger(__name__)

MIB = 1024 * 1024
_PART_BYTES = 16 * MIB
_PARTS_AT_ONCE = 4
_READ_BYTES = 4 * MIB
_CONNECT_S = 5
_READ_S = 30
_ATTEMPTS = 5
# A start does not wait longer for a server that takes connections and says nothing.
_OPEN_S = 10.0
# Botocore asks again until an answer begins, not for one that is cut off in its body.
_BODY_ATTEMPTS = 3

# A listing has 1,000 names a page; a server that sends pages without end is not followed.
_PAGES_MAX = 100_000

# No answer, or half of one: aiohttp's own error comes through where a body is cut off.
_AWAY = (BotoCoreError, aiohttp.ClientError, TimeoutError)

T = TypeVar("T")
# These name an upload in parts, in every call about it.
Upload = dict[str, str]


class S3BlobStore:
    """The BlobStore port; names are keys below `prefix`. Open it with `open`."""

    def __init__(
        self,
        client: Any,
        bucket: str,
        prefix: str,
        *,
        part_bytes: int = _PART_BYTES,
        body_attempts: int = _BODY_ATTEMPTS,
    ) -> None:
        self._client = client
        self._bucket = bucket
        self._prefix = f"{prefix.strip('/')}/" if prefix.strip("/") else ""
        self._part_bytes = part_bytes
        self._body_attempts = body_attempts

    @classmethod
    @asynccontextmanager
    async def open(
        cls,
        bucket: str,
        prefix: str,
        *,
        part_bytes: int = _PART_BYTES,
        attempts: int = _ATTEMPTS,
        body_attempts: int = _BODY_ATTEMPTS,
        open_s: float = _OPEN_S,
    ) -> AsyncIterator["S3BlobStore"]:
        """Open the store. Raises ConfigurationError when a server says that it lacks the bucket.

        A server that does not answer now, or not as S3 does, may do so later; reads and writes fail
        until then. The store's first answer is awaited for `open_s` seconds at most. A request is
        sent `attempts` times at most, and a blob is requested `body_attempts` times at most while
        its body is cut off.
        """
        async with s3_client(
            "TIDELENS_SNAPSHOTS", connect_s=_CONNECT_S, read_s=_READ_S, attempts=attempts
        ) as client:
            store = cls(client, bucket, prefix, part_bytes=part_bytes, body_attempts=body_attempts)
            await store._require_bucket(open_s)
            yield store

    async def _require_bucket(self, open_s: float) -> None:
        try:
            # A listing of one page costs as much as asking for the bucket, and its answer has a
            # body; a 404 without a body may come from any server.
            async with asyncio.timeout(open_s):
                await self._page({"Bucket": self._bucket, "Prefix": self._prefix, "MaxKeys": 1})
        except ClientError as error:
            if error_code(error) == "NoSuchBucket":
                raise ConfigurationError(
                    f"TIDELENS_SNAPSHOTS: there is no bucket {self._bucket!r}; create it first"
                ) from None
            reason = _reason(error)
            log.warning("the bucket cannot be listed now", bucket=self._bucket, error=reason)
        except Exception as error:
            log.warning("S3 does not answer", bucket=self._bucket, error=_reason(error))

    async def write(self, name: str, data: bytes | memoryview) -> None:
        """Write a blob. Raises OSError; then the blob is as it was."""
        with _translated(self._bucket, name):
            sent = await self._client.put_object(
                Bucket=self._bucket, Key=self._key(name), Body=bytes(data)
            )
            _require_etag(sent)

    async def upload(self, name: str, path: Path) -> None:
        """Write a blob from a file, in parts if it is large. Raises OSError.

        Nothing is visible before the last part.
        """
        size = (await asyncio.to_thread(path.stat)).st_size
        if size <= self._part_bytes:
            await self.write(name, await asyncio.to_thread(path.read_bytes))
            return
        await self.upload_in_parts(name, path, size)

    async def upload_in_parts(self, name: str, path: Path, size: int) -> None:
        """Write a blob in parts, however small it is. Raises OSError."""
        upload = await self.begin_upload(name)
        try:
            with _translated(self._bucket, name):
                parts = await self._upload_parts(upload, path, size)
                done = await self._client.complete_multipart_upload(
                    **upload, MultipartUpload={"Parts": parts}
                )
                _require_etag(done)
        except BaseException:
            # Parts that are left cost money and are in no listing. The first error says more than
            # this one.
            with suppress(OSError):
                await self.abort_upload(upload)
            raise

    async def begin_upload(self, name: str) -> Upload:
        """Begin an upload in parts, to be completed or aborted. Raises OSError."""
        where = {"Bucket": self._bucket, "Key": self._key(name)}
        with _translated(self._bucket, name):
            begun = await self._client.create_multipart_upload(**where)
            if "UploadId" not in begun:
                raise _NotS3("CreateMultipartUpload was answered without an upload's id")
            return where | {"UploadId": begun["UploadId"]}

    async def abort_upload(self, upload: Upload) -> None:
        """Abort an upload in parts. Raises OSError."""
        with _translated(self._bucket, upload["Key"]):
            await self._client.abort_multipart_upload(**upload)

    async def read(self, name: str) -> bytes:
        """Return a blob's bytes. Raises KeyError when there is not such a blob, and OSError."""

        async def take(body: Any) -> bytes:
            data: bytes = await body.read()
            return data

        return await self._received(name, take)

    async def local(self, name: str, folder: Path) -> Path:
        """Copy a blob into `folder`. Raises KeyError when there is not such a blob, and OSError.

        The file is whole once it has its name.
        """
        path = folder / name.rpartition("/")[2]
        copy = PartialFile.beside(path)

        async def take(body: Any) -> None:
            file = await asyncio.to_thread(copy.partial.open, "wb")
            try:
                while data := await body.read(_READ_BYTES):
                    await asyncio.to_thread(file.write, data)
            finally:
                await asyncio.to_thread(file.close)

        try:
            await self._received(name, take)
            # It can be fetched again, so it need not survive a crash of the machine.
            await asyncio.to_thread(copy.commit, durable=False)
        except BaseException:
            await asyncio.to_thread(copy.discard)
            raise
        return path

    async def _received(self, name: str, take: Callable[[Any], Awaitable[T]]) -> T:
        """Return the result of `take` for the blob's body; begin again if the body was cut off."""
        attempt = 1
        while True:
            with _translated(self._bucket, name, missing="NoSuchKey"):
                answer = await self._client.get_object(Bucket=self._bucket, Key=self._key(name))
                try:
                    async with answer["Body"] as body:
                        _require_etag(answer)
                        return await take(body)
                except _AWAY as error:
                    if attempt == self._body_attempts:
                        raise
                    log.warning("a blob was cut off", blob=name, error=str(error), attempt=attempt)
            attempt += 1

    async def list(self, prefix: str) -> list[str]:
        """Return the names that begin with `prefix`, sorted. Raises OSError."""
        return sorted(await self.sizes(prefix))

    async def sizes(self, prefix: str) -> Mapping[str, int]:
        """Return the names that `list` returns, each with its size in bytes. Raises OSError."""
        sizes: dict[str, int] = {}
        asked = {"Bucket": self._bucket, "Prefix": self._key(prefix)}
        with _translated(self._bucket, prefix):
            # Pages are followed here, as botocore's paginator reads its description from disk.
            for _ in range(_PAGES_MAX):
                page = await self._page(asked)
                for found in page.get("Contents", ()):
                    sizes[found["Key"].removeprefix(self._prefix)] = found["Size"]
                if not page.get("IsTruncated"):
                    return sizes
                token = page.get("NextContinuationToken")
                if not token or token == asked.get("ContinuationToken"):
                    raise _NotS3("ListObjectsV2 was answered with a page that nothing follows")
                asked["ContinuationToken"] = token
            raise _NotS3(f"ListObjectsV2 did not come to an end within {_PAGES_MAX} pages")

    async def _page(self, asked: Mapping[str, Any]) -> dict[str, Any]:
        page: dict[str, Any] = await self._client.list_objects_v2(**asked)
        # Botocore takes any XML, such as a page of a website, for an empty listing.
        if not {"IsTruncated", "KeyCount", "Name"} & page.keys():
            raise _NotS3("ListObjectsV2 was answered without a listing")
        return page

    async def delete(self, name: str) -> None:
        """Delete a blob, if it is there. Raises OSError."""
        with _translated(self._bucket, name):
            await self._client.delete_object(Bucket=self._bucket, Key=self._key(name))

    def _key(self, name: str) -> str:
        return self._prefix + name

    async def _upload_parts(
        self, upload: Upload, path: Path, size: int
    ) -> Sequence[dict[str, Any]]:
        few = asyncio.Semaphore(_PARTS_AT_ONCE)

        async def send(number: int, start: int) -> dict[str, Any]:
            async with few:
                data = await asyncio.to_thread(_slice, path, start, self._part_bytes)
                sent = await self._client.upload_part(**upload, PartNumber=number, Body=data)
                return {"PartNumber": number, "ETag": _require_etag(sent)}

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


class _NotS3(Exception):
    """The server that answered does not speak S3's protocol, whatever its status was."""

    def __str__(self) -> str:
        return f"{super().__str__()}: this is no S3 server's answer"


def _require_etag(answer: Mapping[str, Any]) -> str:
    """Return the ETag, with which S3 answers a write and a read, and hardly any other server."""
    if "ETag" not in answer:
        raise _NotS3("the answer has no ETag")
    return str(answer["ETag"])


def _reason(error: Exception) -> str:
    """Describe the answer that came, where S3 itself says nothing about the error."""
    if isinstance(error, BotoCoreError | aiohttp.ClientError | _NotS3):
        return str(error) or type(error).__name__
    if not isinstance(error, ClientError):
        return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    code = error_code(error)
    status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode")
    if code.isdecimal() or not code:
        return str(_NotS3(f"{error.operation_name} was answered with {status or code}"))
    return str(error)


@contextmanager
def _translated(bucket: str, name: str, *, missing: str | None = None) -> Iterator[None]:
    """Raise whatever comes as OSError, and the error with the code `missing` as KeyError."""
    try:
        yield
    except ClientError as error:
        if missing is not None and error_code(error) == missing:
            raise KeyError(name) from None
        if error_code(error) == "NoSuchBucket":
            raise OSError(f"s3://{bucket}: the bucket is gone") from None
        raise OSError(f"s3://{bucket}/{name}: {_reason(error)}") from error
    except _AWAY as error:
        raise OSError(f"s3://{bucket}/{name}: {_reason(error)}") from error
    except OSError:
        raise  # from the local disk
    except Exception as error:
        # An answer that botocore cannot read, or that it did not expect.
        raise OSError(f"s3://{bucket}/{name}: {_reason(error)}") from error
