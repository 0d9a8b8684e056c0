"""Settings of where the HTTP server listens, and under which names it answers."""

from pydantic import Field

from contracts.settings.bounds import NAMES_MAX, Host
from contracts.settings.environment import EnvironmentSettings
from contracts.settings.units import Basic


class ServerSettings(EnvironmentSettings):
    """The address of the HTTP server, and the names under which it answers."""

    host: Basic[str] = Field(
        "127.0.0.1",
        max_length=255,
        description="Address that the API and /metrics listen on. The default is reached from "
        "this machine only; 0.0.0.0 listens on every IPv4 address.",
    )
    port: Basic[int] = Field(
        8080,
        ge=0,
        le=65535,
        description="Port that the API listens on. With 0 the system chooses a free one.",
    )
    hosts_allowed: Basic[list[Host]] = Field(
        default_factory=list,
        max_length=NAMES_MAX,
        description="Host names that requests may have in Host and Origin, besides those of "
        "loopback and TIDELENS_HOST (JSON list). Any other is refused with 403.",
    )
    root_path: Basic[str] = Field(
        "",
        max_length=255,
        pattern=r"^(/[A-Za-z0-9_~-][A-Za-z0-9._~-]*)*$",
        description="Path that a proxy keeps in front of the API's own, such as `/search`. Leave "
        "it unset where no proxy adds one, or where the proxy strips it.",
    )
