"""Which references to pictures are followed, and for how long."""

from typing import Literal

from pydantic import Field

from contracts.environment import FromEnvironment
from contracts.settings.bounds import HOUR_S, NAMES_MAX, YEAR_S, Host, Port


class ReferenceSettings(FromEnvironment):
    """Which references to pictures are followed, and for how long."""

    reference_schemes: list[Literal["file", "http", "https", "s3"]] = Field(
        ["file", "https", "s3"],
        max_length=4,
        description="Schemes of image.ref that are followed; file: not from HTTP (JSON list).",
    )
    reference_ports: list[Port] = Field(
        default_factory=lambda: [443],
        max_length=NAMES_MAX,
        description="Ports that references may name (JSON list).",
    )
    reference_hosts_allowed: list[Host] = Field(
        default_factory=list,
        max_length=NAMES_MAX,
        description="Hosts that references may name though their addresses are not public (JSON).",
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
        description="Longest fetch of one reference, its redirects included.",
    )
    reference_redirects_max: int = Field(3, ge=0, le=20, description="Redirects of one reference.")
    reference_per_host_max: int = Field(
        4,
        ge=1,
        le=1000,
        description="References fetched at once from the hosts of one domain, or one bucket.",
    )
    reference_held_max: int = Field(
        16, ge=1, le=1000, description="Pictures of references in memory."
    )
    reference_attempts_max: int = Field(
        3, ge=1, le=100, description="Fetches of one reference whose host fails."
    )
    reference_patience_s: float = Field(
        300.0,
        ge=0,
        le=YEAR_S,
        description="How long references wait while network, resolver or S3 is away.",
    )
