"""References to S3: `s3://BUCKET/KEY`, in buckets that are allowed by name."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import aiohttp
from botocore.exceptions import BotoCoreError, ClientError

from consumers.references.errors import reference_refused, reference_too_large
from consumers.references.limits import ReferenceLimits
from consumers.references.permits import HostPermits, MemoryPermit
from consumers.references.retry import AttemptFailed, ReferenceRetries
from contracts.errors import RejectedRecord
from contracts.s3_client import s3_client

_CONNECT_S = 5.0
_CHUNK_BYTES = 64 * 1024
# Codes of wrong or missing credentials, which are not a fault of the picture.
_CREDENTIALS = {
    "ExpiredToken",
    "InvalidAccessKeyId",
    "InvalidToken",
    "RequestTimeTooSkewed",
    "SignatureDoesNotMatch",
    "TokenRefreshRequired",
}
_BUSY = 429


@asynccontextmanager
async def bucket_client(limits: ReferenceLimits) -> AsyncIterator[Any]:
    """Yield an S3 client, or None where no bucket is allowed. Raises ConfigurationError."""
    if "s3" not in limits.schemes or not limits.buckets:
        yield None
        return
    async with s3_client(
        "TIDELENS_REFERENCE_BUCKETS",
        connect_s=_CONNECT_S,
        read_s=limits.timeout_s,
        attempts=1,  # ReferenceRetries makes the others
    ) as client:
        yield client


class BucketReader:
    """The reader of `s3:` references."""

    def __init__(
        self, client: Any, limits: ReferenceLimits, hosts: HostPermits, retries: ReferenceRetries
    ) -> None:
        self._client = client
        self._limits = limits
        self._hosts = hosts
        self._retries = retries

    async def read(self, ref: str, permit: MemoryPermit) -> bytes:
        """Read a picture, and leave its permit acquired. Raises RejectedRecord."""
        bucket, key = self.require_allowed_bucket(ref)
        host = f"s3://{bucket}"

        async def attempt() -> bytes:
            async with self._hosts.permit(host, permit.group):
                # Checked here, since the host may have been given up while this read waited.
                self._retries.require_not_given_up(host)
                await permit.acquire()
                with permit.released_on_failure():
                    return await self._attempt(host, bucket, key)

        return await self._retries.read_with_retries(attempt)

    async def _attempt(self, host: str, bucket: str, key: str) -> bytes:
        """Read a picture once. Raises RejectedRecord and AttemptFailed."""
        with _translated(host):
            async with asyncio.timeout(self._limits.timeout_s):
                answer = await self._client.get_object(Bucket=bucket, Key=key)
                async with answer["Body"] as body:
                    if "ETag" not in answer:
                        # This may be a login page, for which the picture must not be refused.
                        why = "answered without an ETag, so it is not an S3 server"
                        raise AttemptFailed(host, why, away=True)
                    return await self._body(body, answer.get("ContentLength"))

    async def _body(self, body: Any, size: int | None) -> bytes:
        bytes_max = self._limits.bytes_max
        if size is not None and size > bytes_max:
            raise reference_too_large(bytes_max, size)
        data = bytearray()
        while chunk := await body.read(_CHUNK_BYTES):
            data += chunk
            if len(data) > bytes_max:
                raise reference_too_large(bytes_max)
        return bytes(data)

    def require_allowed_bucket(self, ref: str) -> tuple[str, str]:
        """Return bucket and key if they may be read. Raises RejectedRecord.

        The key is taken literally, without percent-decoding.
        """
        bucket, _, key = ref[len("s3://") :].partition("/")
        # A server that resolves `..` would lead into another bucket.
        if not ref.lower().startswith("s3://") or not key or {".", ".."} & set(key.split("/")):
            why = "expected s3://BUCKET/KEY without . and .. in the key"
            raise reference_refused("reference_invalid", why, value=ref)
        if bucket not in self._limits.buckets:
            allowed = sorted(self._limits.buckets)
            why = f"bucket {bucket!r}, allowed {allowed} (TIDELENS_REFERENCE_BUCKETS)"
            raise reference_refused("reference_forbidden", why, limit=allowed, value=bucket)
        return bucket, key


@contextmanager
def _translated(host: str) -> Iterator[None]:
    """Turn the errors of botocore and aiohttp into RejectedRecord and AttemptFailed."""
    try:
        yield
    except (AttemptFailed, RejectedRecord):
        raise
    except ClientError as error:
        raise _error_of(host, error.response) from error
    except (BotoCoreError, aiohttp.ClientError, OSError) as error:
        reason = str(error) or type(error).__name__
        raise AttemptFailed(host, reason, away=True) from error
    except Exception as error:
        # Botocore cannot read the answer.
        raise AttemptFailed(host, f"answered as no S3 server does: {error!r}", away=True) from error


def _error_of(host: str, response: Any) -> RejectedRecord | AttemptFailed:
    """Return a rejection if S3 refuses the key, or a failure if its server may answer later."""
    status = int(response.get("ResponseMetadata", {}).get("HTTPStatusCode", 500))
    code = str(response.get("Error", {}).get("Code", ""))
    if status >= 500 or status == _BUSY or code in _CREDENTIALS:
        return AttemptFailed(host, f"answered {code}", away=True)
    if not code or code.isdecimal():
        # A proxy without a server behind it answers 404 to everything, without S3's error code.
        return AttemptFailed(host, f"answered {status}, so it is not an S3 server", away=True)
    return reference_refused("reference_missing", f"{host} answered {code}", value=code)
