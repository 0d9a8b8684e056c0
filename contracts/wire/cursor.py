"""Live cursors: the state that a standing list was exact at, and a digest of that list.

A cursor is opaque to clients: base64url of a JSON array. The server only compares what it holds, so
that a forged cursor can do no harm.
"""

import base64
import binascii
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from contracts.errors import RejectedRequest
from contracts.events.format_version import unknown_version
from contracts.wire.as_of import AsOf
from contracts.wire.delta import WireHit

# The offsets of two targets with 4,096 partitions each take up to 220,000 characters.
CURSOR_CHARS_MAX = 250_000
VERSION = 1


def wire_list_digest(hits: Iterable[WireHit]) -> str:
    """Return a digest of a list of wire hits; equal lists have equal digests."""
    sources = ((hit["id"], hit["score"], hit["source"]) for hit in hits)
    return list_digest([(i, s, source["partition"], source["offset"]) for i, s, source in sources])


def list_digest(rows: Sequence[tuple[str, float, int, int]]) -> str:
    """Return the digest of a list: of each hit the id, score, and source partition and offset.

    Within one log the source identifies all members that come from the content record.
    """
    return hashlib.blake2b(orjson.dumps(rows), digest_size=12).hexdigest()


def _plain(value: Any) -> Any:
    """Return a mapping as a dict and any other sequence as a list, which orjson can write."""
    return dict(value) if isinstance(value, Mapping) else list(value)


def _members(raw: str) -> list[Any]:
    """Return the members behind the version. Raise ValueError if it is not this version."""
    if len(raw) > CURSOR_CHARS_MAX:
        raise ValueError("too long")
    padded = raw + "=" * (-len(raw) % 4)
    version: Any
    members: list[Any]
    version, *members = orjson.loads(base64.b64decode(padded, altchars=b"-_", validate=True))
    if type(version) is not int:
        raise ValueError("the version is missing")
    if version != VERSION:
        raise ValueError(unknown_version("cursor", version, VERSION))
    return members


@dataclass(frozen=True, slots=True)
class Cursor:
    """The state `as_of`, a digest of the query, and the digest of the list at that state.

    `list_digest` is empty in mode `matches`, which has no list.
    """

    as_of: AsOf
    query_digest: str
    list_digest: str

    def encode(self) -> str:
        """Return the text that is sent to the client."""
        as_of = self.as_of
        digests = (self.query_digest, self.list_digest)
        members = [VERSION, as_of.space, as_of.epoch, as_of.offsets, *digests]
        return base64.urlsafe_b64encode(orjson.dumps(members, default=_plain)).decode().rstrip("=")

    @classmethod
    def decode(cls, raw: str) -> "Cursor":
        """Decode a cursor. Raise RejectedRequest `invalid_cursor` for any other text."""
        try:
            space, epoch, offsets, query, digest = _members(raw)
            if not all(isinstance(text, str) for text in (space, epoch, query, digest)):
                raise ValueError("space, epoch and digests must be texts")
            for number in (number for numbers in offsets.values() for number in numbers):
                if not isinstance(number, int) or number < 0:
                    raise ValueError(f"not an offset: {number!r}")
        except (ValueError, TypeError, AttributeError, binascii.Error) as error:
            raise RejectedRequest(
                "invalid_cursor", f"cursor: not a cursor of Tidelens ({error})", field="cursor"
            ) from None
        return cls(AsOf(space, epoch, offsets), query, digest)
