"""Settings of references to pictures: which are followed, and what fetching one may cost."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from contracts.settings.bounds import HOUR_S, NAMES_MAX, YEAR_S, Host, Port
from contracts.settings.environment import EnvironmentSettings
from contracts.settings.units import Basic, Seconds, Unit


class ReferenceSettings(EnvironmentSettings):
    """The references that are followed, and what fetching one may cost."""

    allow_roots: Basic[list[Path]] = Field(
        default_factory=list,
        max_length=NAMES_MAX,
        description="Folders that file: references may point into (JSON list). Without any, every "
        "file: reference is refused.",
    )
    reference_buckets: Basic[list[Host]] = Field(
        default_factory=list,
        max_length=NAMES_MAX,
        description="Buckets that s3: references may name (JSON list). Without any, every s3: "
        "reference is refused.",
    )
    reference_hosts_allowed: Basic[list[Host]] = Field(
        default_factory=list,
        max_length=NAMES_MAX,
        description="Hosts that references may name although their addresses are not public (JSON "
        "list). Any other host is refused if one of its addresses is not public.",
    )
    reference_schemes: list[Literal["file", "http", "https", "s3"]] = Field(
        ["file", "https", "s3"],
        max_length=4,
        description="URL schemes that references may have (JSON list). The API takes no file: "
        "reference, whatever stands here.",
    )
    reference_ports: list[Port] = Field(
        default_factory=lambda: [443],
        max_length=NAMES_MAX,
        description="Ports that http: and https: references may name (JSON list). Any other port "
        "is refused.",
    )
    reference_timeout_s: Seconds = Field(
        20.0,
        gt=0,
        le=HOUR_S,
        description="Longest time, in seconds, to fetch one reference, redirects included. Then "
        "the attempt has failed.",
    )
    reference_redirects_max: Annotated[int, Unit("redirects")] = Field(
        3,
        ge=0,
        le=20,
        description="Largest number of redirects that one reference may take. With more, it "
        "becomes a dead letter.",
    )
    reference_per_host_max: Annotated[int, Unit("references")] = Field(
        4,
        ge=1,
        le=1000,
        description="Number of references fetched at the same time from the hosts of one "
        "registrable domain, or from one bucket. More wait their turn.",
    )
    reference_held_max: Annotated[int, Unit("pictures")] = Field(
        16,
        ge=1,
        le=1000,
        description="Number of pictures that were fetched by reference and are in memory at the "
        "same time. Further ones wait to be fetched.",
    )
    reference_attempts_max: Annotated[int, Unit("attempts")] = Field(
        3,
        ge=1,
        le=100,
        description="Number of attempts to fetch a reference whose host fails. After the last one "
        "it becomes a dead letter.",
    )
    reference_patience_s: Seconds = Field(
        300.0,
        ge=0,
        le=YEAR_S,
        description="Time, in seconds, for which references wait while the network, the resolver "
        "or S3 is down. Then they become dead letters.",
    )
