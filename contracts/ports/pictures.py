"""The ports of pictures: reading the ones that references name, and converting them to JPEG."""

from contextlib import AbstractAsyncContextManager
from typing import Protocol


class ReferenceReader(Protocol):
    """A reader of the pictures that references name, within limits and only where allowed."""

    def read(self, ref: str, sha256: str | None) -> AbstractAsyncContextManager[bytes]:
        """Read a picture. Its bytes count as in memory until the context ends.

        Raises RejectedRecord; its code is `reference_unreachable` where a later attempt may
        succeed.
        """
        ...


class PictureConverter(Protocol):
    """A converter to JPEG of pictures that browsers do not show.

    It works in a process of its own, since a damaged picture may crash the decoder.
    """

    async def to_jpeg(self, data: bytes) -> bytes:
        """Return the picture as JPEG.

        Raises RejectedRecord for a picture that cannot be decoded within its limits, and NotReady.
        """
        ...
