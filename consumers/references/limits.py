"""What references may name and cost."""

from dataclasses import dataclass
from pathlib import Path

from contracts.settings import Settings


@dataclass(frozen=True, slots=True)
class ReferenceLimits:
    """The settings `reference_*`, which say what each means, with those of files and sizes."""

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

    @classmethod
    def of(cls, settings: Settings) -> "ReferenceLimits":
        return cls(
            schemes=frozenset(settings.reference_schemes),
            bytes_max=settings.image_bytes_max,
            allow_roots=tuple(settings.allow_roots),
            ports=frozenset(settings.reference_ports),
            # An IPv6 address may stand there as in a URL, or bare.
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
