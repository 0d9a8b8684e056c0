"""Limits on what clients of the HTTP server, and of an encoder's /metrics, may hold."""

from pydantic import Field

from contracts.environment import FromEnvironment
from contracts.settings.bounds import GIB, HOUR_S


class HttpSettings(FromEnvironment):
    """Limits on what clients of the HTTP server, and of an encoder's /metrics, may hold."""

    http_connections_max: int = Field(
        4096,
        ge=16,
        le=1_000_000,
        description="Most connections of all clients; fewer where the system allows fewer "
        "open files.",
    )
    http_connections_per_address_max: int = Field(
        512,
        ge=1,
        le=1_000_000,
        description="Most connections of one client address (IPv6: one /64 network). Behind "
        "a proxy all clients share its address: set it to "
        "TIDELENS_HTTP_CONNECTIONS_MAX there.",
    )
    header_timeout_s: float = Field(
        10.0,
        gt=0,
        le=HOUR_S,
        description="Longest wait, in seconds, for the header of a request or of a handshake.",
    )
    body_timeout_s: float = Field(
        15.0,
        gt=0,
        le=HOUR_S,
        description="Window, in seconds, in which a body or an unfinished frame must "
        "advance at TIDELENS_CLIENT_BYTES_PER_S_MIN, or it is refused.",
    )
    client_bytes_per_s_min: int = Field(
        8192,
        ge=0,
        le=GIB,
        description="Slowest pace, in bytes per second, at which clients may send bodies "
        "and take answers.",
    )
    bodies_mb_max: int = Field(
        256,
        ge=1,
        le=1_048_576,
        description="Memory, in MiB, of the bodies and unfinished frames of all clients.",
    )
    bodies_per_address_mb_max: int = Field(
        128,
        ge=1,
        le=1_048_576,
        description="Memory, in MiB, of the bodies and unfinished frames of one client "
        "address. Behind a proxy, set it to TIDELENS_BODIES_MB_MAX.",
    )
