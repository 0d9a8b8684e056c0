"""Hits as JSON (contracts.wire.server_messages.HitMessage), without a pydantic model between."""

from collections.abc import Collection, Iterable, Iterator
from itertools import islice

import numpy as np
import orjson

from contracts.ports.hit import Hit
from contracts.score import Vectors
from contracts.wire.message_json import half_base64, wire_hit

# Hits that are written at a time: 16 of the largest take 2 ms.
_AT_ONCE = 16


def hits_json(hits: Iterable[Hit], include: Collection[str]) -> Iterator[bytes]:
    """Yield the JSON of the hits, a few at a time, with commas and without the list's brackets."""
    rest, comma, wire = iter(hits), b"", _wire if include else wire_hit
    while some := [wire(hit, include) for hit in islice(rest, _AT_ONCE)]:
        yield comma + orjson.dumps(some, option=orjson.OPT_SERIALIZE_NUMPY)[1:-1]
        comma = b","


def hit_json(hit: Hit, include: Collection[str]) -> bytes:
    """Return the JSON of one hit."""
    return orjson.dumps(_wire(hit, include), option=orjson.OPT_SERIALIZE_NUMPY)


def _wire(hit: Hit, include: Collection[str]) -> dict[str, object]:
    if hit.vector is None:
        return wire_hit(hit, ())
    wire = wire_hit(hit, [form for form in include if form != "vector"])
    if "vector" in include:
        # orjson writes an array in a quarter of the time that a list of numbers takes.
        wire["vector"] = hit.vector.astype(np.float64)
    return wire


def vector_members(vector: Vectors, include: Collection[str]) -> bytes:
    """Return the members `vector`, `vector_f16` or both for a vector (dim,) as JSON, no braces."""
    members = []
    if "vector" in include:
        numbers = orjson.dumps(vector.astype(np.float64), option=orjson.OPT_SERIALIZE_NUMPY)
        members.append(b'"vector":' + numbers)
    if "vector_f16" in include:
        members.append(b'"vector_f16":"' + half_base64(vector) + b'"')
    return b",".join(members)
