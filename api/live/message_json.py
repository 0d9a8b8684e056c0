"""Live messages as JSON: small ones at once, large ones in slices."""

from collections.abc import Collection
from typing import Any

import orjson

from api.http.answer_memory import hits_bytes
from api.http.hit_json import hit_json
from api.http.time_slices import TimeSlice
from api.live.subscription import ServerMessage
from api.live.top.ranked_item import LazyHitJson
from contracts.errors import RejectedRequest
from contracts.ports.hit import Hit

# Bytes that are counted for metadata before it is written.
_METADATA_BYTES = 512


class LazyMatchJson:
    """A hit of mode `matches`, whose JSON is written together with its message."""

    __slots__ = ("_hit", "_include")

    def __init__(self, hit: Hit, include: Collection[str]) -> None:
        self._hit = hit
        self._include = include

    @property
    def size(self) -> int:
        """The approximate length of its JSON in bytes."""
        hit = self._hit
        dim = 0 if hit.vector is None else len(hit.vector)
        texts = len(hit.text or "") + (_METADATA_BYTES if hit.metadata else 0)
        return texts + hits_bytes(1, self._include, dim)

    def fragment(self) -> orjson.Fragment:
        """Return the JSON, for orjson to write into a message."""
        return orjson.Fragment(hit_json(self._hit, self._include))


def message_size(message: ServerMessage) -> int:
    """Return the approximate length of the JSON of its hits, in bytes."""
    hits = message.get("hits") or [
        change["hit"] for change in message.get("changes", ()) if "hit" in change
    ]
    return sum(one.size for one in hits)


def message_json(message: ServerMessage) -> str:
    """Return the message's JSON, written at once."""
    return orjson.dumps(message, default=_default).decode()


async def message_json_in_slices(message: ServerMessage, bytes_max: int, pace: TimeSlice) -> str:
    """Return the message's JSON, written in slices between which other tasks run.

    Raises RejectedRequest if it is longer than `bytes_max`.
    """
    size, parts = 0, list[str]()
    for name, value in message.items():
        parts.append(f'{"," if parts else "{"}"{name}":')
        if not isinstance(value, list):
            parts.append(orjson.dumps(value).decode())
            continue
        for number, one in enumerate(value):
            written = orjson.dumps(one, default=_default)
            size += len(written)
            if size > bytes_max:
                raise message_too_large(bytes_max, size)
            # The socket takes a string, and to decode all of it at once would take long.
            parts.append("," if number else "[")
            parts.append(written.decode())
            await pace.yield_when_over()
        parts.append("]" if value else "[]")
    parts.append("}")
    return "".join(parts)


def message_too_large(limit: int, size: int) -> RejectedRequest:
    """Return the error for a message of about `size` bytes, which is more than `limit`."""
    return RejectedRequest(
        "answer_too_large",
        f"message_bytes_max: limit {limit} bytes of one message, got about {size}; ask for fewer "
        "hits (k), or for vector_f16 instead of vector",
        field="query.k",
        limit=limit,
        value=size,
    )


def _default(value: Any) -> Any:
    # The `value` of an error comes from the request and may be anything.
    return value.fragment() if isinstance(value, LazyHitJson | LazyMatchJson) else str(value)
