"""The limits of what references may name and cost."""

from dataclasses import dataclass, replace
from pathlib import Path

from contracts.settings import Settings


@dataclass(frozen=True, slots=True)
class ReferenceLimits:
    """The settings `reference_*`, which are described there, with those of files and sizes.

    `held_max` is the number of pictures in memory, and `given_up_s` the seconds for which a host
    is not asked again after it could not be reached.
    """

    schemes: frozenset[str]
    bytes_max: int
    allow_roots: tuple[Path, ...] = ()
    ports: frozenset[int] = frozenset({443})
    hosts_allowed: frozenset[str] = frozenset()
    buckets: frozenset[str] = frozenset()
    timeout_s: float = 20.0
    redirects_max: int = 3
    per_host_max: int = 4
    held_max: int = 16
    attempts_max: int = 3
    patience_s: float = 300.0
    given_up_s: float = 60.0

    @classmethod
    def from_settings(cls, settings: Settings) -> "ReferenceLimits":
        """Return the limits for the references of content records."""
        return cls(
            schemes=frozenset(settings.reference_schemes),
            bytes_max=settings.image_bytes_max,
            allow_roots=tuple(settings.allow_roots),
            ports=frozenset(settings.reference_ports),
            # An IPv6 address may be in brackets, as in a URL, or not.
            hosts_allowed=frozenset(
                host.lower().strip("[]") for host in settings.reference_hosts_allowed
            ),
            buckets=frozenset(settings.reference_buckets),
            timeout_s=settings.reference_timeout_s,
            redirects_max=settings.reference_redirects_max,
            per_host_max=settings.reference_per_host_max,
            held_max=settings.reference_held_max,
            attempts_max=settings.reference_attempts_max,
            patience_s=settings.reference_patience_s,
        )

    @classmethod
    def of_queries(cls, settings: Settings) -> "ReferenceLimits":
        """Return the limits for the references in queries.

        Each is tried once, since the client waits and can ask again; so no host is given up either.
        Files are left out: anybody who can search could read them.
        """
        return replace(
            cls.from_settings(settings),
            schemes=frozenset(settings.reference_schemes) - {"file"},
            attempts_max=1,
            patience_s=0.0,
            given_up_s=0.0,
        )
