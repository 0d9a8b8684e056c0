"""Limits on what clients of the HTTP server, and of an encoder's /metrics, may hold."""

from pydantic import Field

from contracts.environment import FromEnvironment


class HttpSettings(FromEnvironment):
    """Limits on what clients of the HTTP server, and of an encoder's /metrics, may hold."""

    http_connections_max: int = Field(
        4096,
        ge=16,
        le=1_000_000,
        description="Connections of all clients; fewer where the system allows fewer open files.",
    )
    http_connections_per_address_max: int = Field(
        512,
        ge=1,
        le=1_000_000,
        description="Connections of one client address (IPv6: /64 network). Behind a proxy all "
        "clients have the proxy's: set it to TIDELENS_HTTP_CONNECTIONS_MAX there.",
    )
    header_timeout_s: float = Field(
        10.0, gt=0, le=3600, description="Longest wait for the header of a request or handshake."
    )
    body_timeout_s: float = Field(
        15.0,
        gt=0,
        le=3600,
        description="In each such time a body or an unfinished frame must move on by "
        "TIDELENS_CLIENT_BYTES_PER_S_MIN, or it is refused.",
    )
    client_bytes_per_s_min: int = Field(
        8192, ge=0, le=2**30, description="Slowest pace at which clients send bodies, take answers."
    )
    bodies_mb_max: int = Field(
        256, ge=1, le=1_048_576, description="Bodies and unfinished frames in memory, of all."
    )
    bodies_per_address_mb_max: int = Field(
        128,
        ge=1,
        le=1_048_576,
        description="The same of one client address. Behind a proxy: TIDELENS_BODIES_MB_MAX.",
    )
