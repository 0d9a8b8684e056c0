"""The messages of the server as plain dictionaries for orjson, made from values of the ports."""

from base64 import b64encode
from collections.abc import Collection, Sequence
from dataclasses import asdict
from typing import Any

from contracts.filters.warnings import FilterWarning
from contracts.ports.hit import Hit
from contracts.ports.lag import Lag
from contracts.score import Vectors
from contracts.wire.as_of import AsOf
from contracts.wire.client_messages import AsOfMessage
from contracts.wire.delta import WireHit
from contracts.wire.item_urls import picture_path


def wire_hit(hit: Hit, include: Collection[str] = ("vector",)) -> WireHit:
    """Return a hit in its wire form (HitMessage), with its vector if it has one."""
    topic, partition, offset = hit.source
    wire: WireHit = {
        "id": hit.id,
        "target": hit.target,
        "rank": hit.rank,
        "score": hit.score,
        "item": hit.item,
        "text": hit.text,
        "metadata": dict(hit.metadata or {}),
        "source": {"topic": topic, "partition": partition, "offset": offset},
        "picture": picture_path(hit.id) if hit.target == "images" else None,
    }
    if hit.vector is not None and "vector" in include:
        wire["vector"] = [float(number) for number in hit.vector]
    if hit.vector is not None and "vector_f16" in include:
        wire["vector_f16"] = half_base64(hit.vector).decode()
    return wire


def half_base64(vector: Vectors) -> bytes:
    """Return the value of `vector_f16`: IEEE 754 half precision, little-endian, in base64."""
    return b64encode(vector.astype("<f2").tobytes())


def wire_warnings(warnings: Sequence[FilterWarning]) -> dict[str, Any]:
    """Return the member `warnings` (WarningMessage), or no member if there are none."""
    return {"warnings": [asdict(warning) for warning in warnings]} if warnings else {}


def wire_as_of(as_of: AsOf) -> dict[str, Any]:
    """Return a state in its wire form (AsOfMessage)."""
    return {
        "space": as_of.space,
        "epoch": as_of.epoch,
        "offsets": {target: list(offsets) for target, offsets in as_of.offsets.items()},
    }


def wire_lag(
    lags: Sequence[Lag], *, space: str, broker: str, behind_s: float | None
) -> dict[str, Any]:
    """Return lag in its wire form (LagAnswer), which `tidelens lag --json` prints too.

    The rows are an iterator, since there may be thousands.
    """
    rows = map(_wire_lag_row, lags)
    return {"broker": broker, "space": space, "behind_s": behind_s, "partitions": rows}


def _wire_lag_row(lag: Lag) -> dict[str, Any]:
    """Return one row of lag in its wire form (LagRow)."""
    # Written out, since dataclasses.asdict takes ten times as long.
    return {
        "role": lag.role,
        "group": lag.group,
        "topic": lag.topic,
        "partition": lag.partition,
        "position": lag.position,
        "end": lag.end,
        "records": lag.records,
        "seconds": round(lag.seconds, 3),
        "space": lag.space,
        "high_watermark": lag.high_watermark,
        "unstable": lag.unstable,
        "unstable_seconds": round(lag.unstable_seconds, 3),
        "members": lag.members,
        "gone": lag.gone,
    }


def read_as_of(message: AsOfMessage) -> AsOf:
    """Return the state that a message names; this is the inverse of `wire_as_of`."""
    return AsOf(message.space, message.epoch, message.offsets)
