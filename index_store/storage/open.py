"""The choice of a blob store by its address: a folder or an S3 bucket."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from contracts.errors import ConfigurationError
from contracts.ports.blob_store import BlobStore
from index_store.storage.local import LocalBlobStore


@asynccontextmanager
async def open_blob_store(url: str | None, default: Path) -> AsyncIterator[BlobStore]:
    """Open the store at `url`, `file:PATH` or `s3://BUCKET/PREFIX`, or in the folder `default`.

    Raises ConfigurationError for another address or a bucket that does not exist.
    """
    if url is None:
        yield LocalBlobStore(default)
    elif url.startswith("file:") and url.removeprefix("file:"):
        yield LocalBlobStore(Path(url.removeprefix("file:")))
    elif url.startswith("s3://") and url.removeprefix("s3://").strip("/"):
        # These imports take half a second, so that only users of S3 wait for them.
        from index_store.storage.s3 import S3BlobStore

        bucket, _, prefix = url.removeprefix("s3://").partition("/")
        async with S3BlobStore.open(bucket, prefix) as store:
            yield store
    else:
        raise ConfigurationError(
            f"TIDELENS_SNAPSHOTS: want file:PATH or s3://BUCKET/PREFIX, got {url!r}"
        )
