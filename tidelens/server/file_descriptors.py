"""Enough file descriptors for the admitted connections and for everything else.

A server without a free descriptor cannot accept connections, reach Kafka or write a snapshot.
"""

import resource
from dataclasses import replace

import structlog

from contracts.settings import Settings
from tidelens.server.admission import LEAVING_MAX, ConnectionLimiter, ConnectionLimits

log = structlog.get_logger(__name__)

# Descriptors for Kafka, snapshots, segments, models, child processes and queries' references.
RESERVED = 512


def open_connection_limiter(settings: Settings) -> ConnectionLimiter:
    """Return a limiter that admits no more connections than there are descriptors for."""
    limits = ConnectionLimits.of(settings)
    room = connections_possible(limits.connections_max)
    if room < limits.connections_max:
        log.warning(
            "fewer connections than set: the limit on open files is too low",
            http_connections_max=limits.connections_max,
            possible=room,
            fix=f"ulimit -n {descriptors_needed(limits.connections_max)}",
        )
    return ConnectionLimiter(replace(limits, connections_max=room))


def descriptors_needed(connections: int) -> int:
    """Return the descriptors that `connections` need, with refused clients and all other uses."""
    return connections + LEAVING_MAX + RESERVED


def connections_possible(connections: int) -> int:
    """Raise the soft limit as far as needed; return how many of `connections` it allows."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = descriptors_needed(connections)
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return connections
    raised = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (raised, hard))
    # A system with a very low limit still serves a few clients.
    return min(connections, max(16, raised - descriptors_needed(0)))
