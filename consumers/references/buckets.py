"""References to S3: `s3://BUCKET/KEY`, in buckets that are allowed by name."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
from botocore.exceptions import BotoCoreError, ClientError

from consumers.references.errors import reference_refused, reference_too_large
from consumers.references.limits import ReferenceLimits
from consumers.references.permits import HostPermits, MemoryPermit
from consumers.references.retry import AttemptFailed, ReferenceRetries
from contracts.errors import RejectedRecord
from contracts.s3_client import error_code, s3_client

_CONNECT_S = 5.0
_CHUNK_BYTES = 64 * 1024
# Ours are wrong or not there yet, which is no fault of the picture.
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
    """Attempts to read from S3."""

    def __init__(
        self, client: Any, limits: ReferenceLimits, hosts: HostPermits, retrying: ReferenceRetries
    ) -> None:
        self._client = client
        self._limits = limits
        self._hosts = hosts
        self._retries = retrying

    async def read(self, ref: str, permit: MemoryPermit) -> bytes:
        """The picture, whose permit is taken. Raises RejectedRecord."""
        bucket, key = self.require_allowed_bucket(ref)
        host = f"s3://{bucket}"

        async def attempt() -> bytes:
            async with self._hosts.permit(host, permit.group):
                # Here: it may have been given up while this one waited at its door.
                self._retries.require_not_given_up(host)
                await permit.acquire()
                with permit.released_on_failure():
                    return await self._attempt(host, bucket, key)

        return await self._retries.read_with_retries(attempt)

    async def _attempt(self, host: str, bucket: str, key: str) -> bytes:
        try:
            async with asyncio.timeout(self._limits.timeout_s):
                answer = await self._client.get_object(Bucket=bucket, Key=key)
                async with answer["Body"] as body:
                    if "ETag" not in answer:
                        # This may be a login page. Taken for the picture, it would be refused for
                        # good.
                        raise AttemptFailed(
                            host, "answered without an ETag, so it is not an S3 server", away=True
                        )
                    return await self._body(body, answer.get("ContentLength"))
        except ClientError as error:
            status = int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 500))
            code = error_code(error)
            if status >= 500 or status == _BUSY or code in _CREDENTIALS:
                raise AttemptFailed(host, f"answered {code}", away=True) from error
            if not code or code.isdecimal():
                # A proxy without a server behind it answers 404 to everything, without S3's error
                # code.
                raise AttemptFailed(
                    host, f"answered {status}, so it is not an S3 server", away=True
                ) from error
            raise reference_refused(
                "reference_missing", f"{host} answered {code}", value=code
            ) from None
        except (BotoCoreError, aiohttp.ClientError, OSError) as error:
            reason = str(error) or type(error).__name__
            raise AttemptFailed(host, reason, away=True) from error
        except (AttemptFailed, RejectedRecord):
            raise
        except Exception as error:
            # Botocore cannot read the answer.
            raise AttemptFailed(
                host, f"answered as no S3 server does: {error!r}", away=True
            ) from error

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
        """Bucket and key. The key is taken as it stands, without percent-encoding."""
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
