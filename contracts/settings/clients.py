"""Limits on what many or slow clients may hold of an HTTP server, an encoder's included."""

from typing import Annotated

from pydantic import Field

from contracts.settings.bounds import GIB, HOUR_S
from contracts.settings.environment import EnvironmentSettings
from contracts.settings.units import Mebibytes, Seconds, Unit


class ClientSettings(EnvironmentSettings):
    """Limits on what many or slow clients may hold of an HTTP server, an encoder's included."""

    http_connections_max: Annotated[int, Unit("connections")] = Field(
        4096,
        ge=16,
        le=1_000_000,
        description="Largest number of connections of all clients; the system's limit on open "
        "files may allow fewer. Beyond it, the connection idle longest is closed, or the new one "
        "gets 503.",
    )
    http_connections_per_address_max: Annotated[int, Unit("connections")] = Field(
        512,
        ge=1,
        le=1_000_000,
        description="Largest number of connections of one client address (IPv6: one /64 network). "
        "Behind a proxy all clients share its address: set it to TIDELENS_HTTP_CONNECTIONS_MAX "
        "there.",
    )
    header_timeout_s: Seconds = Field(
        10.0,
        gt=0,
        le=HOUR_S,
        description="Longest wait, in seconds, for the header of a request or a WebSocket "
        "handshake. Then the request is refused with 408.",
    )
    body_timeout_s: Seconds = Field(
        15.0,
        gt=0,
        le=HOUR_S,
        description="Window, in seconds, in which a body or an unfinished frame must advance at "
        "TIDELENS_CLIENT_BYTES_PER_S_MIN. A slower one is refused with 408.",
    )
    client_bytes_per_s_min: Annotated[int, Unit("bytes/s")] = Field(
        8192,
        ge=0,
        le=GIB,
        description="Slowest pace, in bytes per second, at which clients may send bodies and take "
        "answers. A slower client loses its connection.",
    )
    bodies_mb_max: Mebibytes = Field(
        256,
        ge=1,
        le=1_048_576,
        description="Memory, in MiB, for the bodies and unfinished frames of all clients. Beyond "
        "it, a slow body or the address that holds most is refused.",
    )
    bodies_per_address_mb_max: Mebibytes = Field(
        128,
        ge=1,
        le=1_048_576,
        description="Memory, in MiB, for the bodies and unfinished frames of one client address. "
        "Behind a proxy, set it to TIDELENS_BODIES_MB_MAX.",
    )
