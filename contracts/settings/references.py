"""Settings of references to pictures: those that are followed, and for how long."""

from typing import Literal

from pydantic import Field

from contracts.environment import FromEnvironment
from contracts.settings.bounds import HOUR_S, NAMES_MAX, YEAR_S, Host, Port


class ReferenceSettings(FromEnvironment):
    """Which references to pictures are followed, and for how long."""

    reference_schemes: list[Literal["file", "http", "https", "s3"]] = Field(
        ["file", "https", "s3"],
        max_length=4,
        description="URL schemes of image.ref that are followed; file: is never taken over "
        "HTTP (JSON list).",
    )
    reference_ports: list[Port] = Field(
        default_factory=lambda: [443],
        max_length=NAMES_MAX,
        description="Ports that references may name (JSON list).",
    )
    reference_hosts_allowed: list[Host] = Field(
        default_factory=list,
        max_length=NAMES_MAX,
        description="Hosts that references may name although their addresses are not public "
        "(JSON list).",
    )
    reference_buckets: list[Host] = Field(
        default_factory=list,
        max_length=NAMES_MAX,
        description="Buckets that s3: references may name (JSON list).",
    )
    reference_timeout_s: float = Field(
        20.0,
        gt=0,
        le=HOUR_S,
        description="Longest time, in seconds, to fetch one reference, redirects included.",
    )
    reference_redirects_max: int = Field(
        3, ge=0, le=20, description="Most redirects that one reference may take."
    )
    reference_per_host_max: int = Field(
        4,
        ge=1,
        le=1000,
        description="References fetched at the same time from the hosts of one registrable "
        "domain, or from one bucket.",
    )
    reference_held_max: int = Field(
        16,
        ge=1,
        le=1000,
        description="Pictures read from references that are in memory at the same time.",
    )
    reference_attempts_max: int = Field(
        3, ge=1, le=100, description="Attempts to fetch a reference whose host fails."
    )
    reference_patience_s: float = Field(
        300.0,
        ge=0,
        le=YEAR_S,
        description="How long, in seconds, references wait while the network, the resolver "
        "or S3 is down.",
    )
