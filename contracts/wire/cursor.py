"""Live cursors: the state a standing list was exact at, and a digest of that list.

Opaque to clients: base64url of a JSON array. Nothing in it is trusted for more than comparing.
"""

import base64
import binascii
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from contracts.errors import RejectedRequest
from contracts.events.format_version import unknown
from contracts.wire.as_of import AsOf
from contracts.wire.delta import WireHit

# Two targets with 4,096 partitions each take up to 220,000.
CURSOR_CHARS_MAX = 250_000
VERSION = 1


def list_digest(hits: Iterable[WireHit]) -> str:
    """Equal for equal lists."""
    sources = ((hit["id"], hit["score"], hit["source"]) for hit in hits)
    return digest_of([(i, s, source["partition"], source["offset"]) for i, s, source in sources])


def digest_of(places: Sequence[tuple[str, float, int, int]]) -> str:
    """The same of each hit's id, score, and partition and offset of its source.

    Within one log the source stands for all members that come from the content record.
    """
    return hashlib.blake2b(orjson.dumps(places), digest_size=12).hexdigest()


def _plain(value: Any) -> Any:
    """Mappings and sequences of other kinds than JSON's."""
    return dict(value) if isinstance(value, Mapping) else list(value)


@dataclass(frozen=True, slots=True)
class Cursor:
    """`as_of`, a digest of the query it answers, and the digest of the hits there."""

    as_of: AsOf
    query: str
    hits: str

    def encode(self) -> str:
        as_of = self.as_of
        parts = [VERSION, as_of.space, as_of.epoch, as_of.offsets, self.query, self.hits]
        return base64.urlsafe_b64encode(orjson.dumps(parts, default=_plain)).decode().rstrip("=")

    @classmethod
    def decode(cls, raw: str) -> "Cursor":
        """Raises RejectedRequest `invalid_cursor`."""
        try:
            if len(raw) > CURSOR_CHARS_MAX:
                raise ValueError("too long")
            padded = raw + "=" * (-len(raw) % 4)
            version, *members = orjson.loads(
                base64.b64decode(padded, altchars=b"-_", validate=True)
            )
            if type(version) is not int:
                raise ValueError("no version")
            if version != VERSION:
                raise ValueError(unknown("cursor", version, VERSION))
            space, epoch, offsets, query, digest = members
            if not all(isinstance(text, str) for text in (space, epoch, query, digest)):
                raise ValueError("space, epoch and digests must be texts")
            for number in (number for numbers in offsets.values() for number in numbers):
                if not isinstance(number, int) or number < 0:
                    raise ValueError(f"not an offset: {number!r}")
        except (ValueError, TypeError, AttributeError, binascii.Error) as error:
            raise RejectedRequest(
                "invalid_cursor", f"cursor: not one of ours ({error})", field="cursor"
            ) from None
        return cls(AsOf(space, epoch, offsets), query, digest)
