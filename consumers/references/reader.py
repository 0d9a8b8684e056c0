"""The reader of references, for all schemes."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Hashable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from types import TracebackType
from typing import Self

import structlog

from consumers.fair_semaphore import FairSemaphore
from consumers.references.buckets import BucketReader, bucket_client
from consumers.references.errors import reference_refused, require_digest
from consumers.references.files import allowed_path, read_reference
from consumers.references.limits import ReferenceLimits
from consumers.references.permits import HostPermits, MemoryPermit
from consumers.references.registrant import suffixes
from consumers.references.resolver import Lookup, SystemLookup
from consumers.references.retry import ReferenceRetries
from consumers.references.web import SCHEMES as WEB
from consumers.references.web import WebReader, web_session
from contracts.errors import RejectedRecord

log = structlog.get_logger(__name__)

_LOOKUPS_MAX = 64


class References:
    """A context in which pictures are read by reference, within `limits`."""

    def __init__(
        self,
        limits: ReferenceLimits,
        *,
        lookup: Lookup | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._limits = limits
        self._lookup = lookup
        self._memory = FairSemaphore(limits.held_max)
        self._hosts = HostPermits(limits.per_host_max)
        # There are two, since a web that can be reached says nothing about S3.
        self._of_web, self._of_s3 = (
            ReferenceRetries(
                attempts_max=limits.attempts_max,
                patience_s=limits.patience_s,
                given_up_s=limits.given_up_s,
                sleep=sleep,
                clock=clock,
            )
            for _ in range(2)
        )
        self._stack = AsyncExitStack()
        self._web: WebReader
        self._buckets: BucketReader

    @property
    def waiting(self) -> int:
        """The number of references that wait for the network, the resolver or S3 to work again."""
        return self._of_web.waiting + self._of_s3.waiting

    async def __aenter__(self) -> Self:
        await asyncio.to_thread(suffixes)
        async with AsyncExitStack() as stack:
            # A lookup that timed out keeps its thread, for half a minute with most resolvers, while
            # another reference has its permit; threads that only wait cost little.
            threads_max = max(_LOOKUPS_MAX, 4 * self._limits.held_max)
            lookup = self._lookup or stack.enter_context(SystemLookup(threads_max))
            session = await stack.enter_async_context(web_session(self._limits, lookup))
            client = await stack.enter_async_context(bucket_client(self._limits))
            self._web = WebReader(session, self._limits, self._hosts, self._of_web)
            self._buckets = BucketReader(client, self._limits, self._hosts, self._of_s3)
            self._stack = stack.pop_all()
        return self

    async def __aexit__(
        self,
        error_type: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._stack.aclose()

    @asynccontextmanager
    async def read(
        self, ref: str, sha256: str | None, group: Hashable = None
    ) -> AsyncIterator[bytes]:
        """Read the bytes that `ref` names; they count as in memory while the context is open.

        `sha256`, in hex, is checked unless it is None. References of different groups take turns,
        so that those of one `group` never wait for all of another.

        Raises RejectedRecord: reference_invalid, not_enabled, reference_forbidden,
        reference_missing, reference_unreachable, reference_too_many_redirects,
        image_too_large_bytes, reference_changed.
        """
        permit = MemoryPermit(self._memory, group)
        try:
            yield await self._bytes(ref, sha256, permit)
        finally:
            permit.release()

    async def require_allowed(self, ref: str) -> None:
        """Refuse what `read` would refuse before any request, for a picture whose vector is known.

        The scheme, user, port, address, bucket or root of a file are checked, without any network.
        So a name that leads to a private address passes, and nothing need exist at `ref`.

        Raises RejectedRecord: reference_invalid, not_enabled, reference_forbidden,
        reference_missing (links in a circle).
        """
        with _only_rejections():
            scheme = self._scheme(ref)
            if scheme in WEB:
                self._web.require_allowed_url(ref)
            elif scheme == "s3":
                self._buckets.require_allowed_bucket(ref)
            else:
                await asyncio.to_thread(allowed_path, ref, self._limits.allow_roots)

    async def _bytes(self, ref: str, sha256: str | None, permit: MemoryPermit) -> bytes:
        with _only_rejections():
            data = await self._by_scheme(ref, permit)
            await asyncio.to_thread(require_digest, data, sha256)
        return data

    def _scheme(self, ref: str) -> str:
        """Return the scheme of `ref`, in lower case. Raises RejectedRecord if it is not enabled."""
        scheme = ref.partition(":")[0].lower()
        if scheme not in self._limits.schemes:
            enabled = sorted(self._limits.schemes)
            why = f"scheme {scheme[:20]!r}, enabled {enabled} (TIDELENS_REFERENCE_SCHEMES)"
            raise reference_refused("not_enabled", why, limit=enabled, value=scheme[:20])
        return scheme

    async def _by_scheme(self, ref: str, permit: MemoryPermit) -> bytes:
        scheme = self._scheme(ref)
        if scheme in WEB:
            return await self._web.read(ref, permit)
        if scheme == "s3":
            return await self._buckets.read(ref, permit)
        await permit.acquire()
        return await asyncio.to_thread(
            read_reference,
            ref,
            None,  # the caller compares it, as for all schemes
            allow_roots=self._limits.allow_roots,
            bytes_max=self._limits.bytes_max,
        )


@contextmanager
def _only_rejections() -> Iterator[None]:
    """Turn every error that is not a rejection into one."""
    try:
        yield
    except RejectedRecord:
        raise
    except Exception as error:
        # A stranger may have caused it: that reference is refused, and the encoder goes on.
        log.error("a reference failed in a way that is not known", error=repr(error))
        raise reference_refused("reference_invalid", f"failed by {type(error).__name__}") from error
