"""Sees to enough file descriptors for the connections that we let in and for everything else.

A server without one left cannot accept, cannot reach Kafka, and cannot write a snapshot.
"""

import resource
from dataclasses import replace

import structlog

from contracts.settings import Settings
from tidelens.server.admission import LEAVING_MAX, ConnectionLimiter, ConnectionLimits

log = structlog.get_logger(__name__)

# Descriptors for Kafka, snapshots, segments, models, child processes and queries' references.
KEPT = 512


def open_connection_limiter(settings: Settings) -> ConnectionLimiter:
    """Make a door that lets no more in than there are descriptors for."""
    limits = ConnectionLimits.of(settings)
    room = connections_possible(limits.connections_max)
    if room < limits.connections_max:
        log.warning(
            "fewer connections than set, for want of open files",
            http_connections_max=limits.connections_max,
            possible=room,
            fix=f"ulimit -n {descriptors_needed(limits.connections_max)}",
        )
    return ConnectionLimiter(replace(limits, connections_max=room))


def descriptors_needed(connections: int) -> int:
    """Return how many descriptors so many connections need, with those that leave and the rest."""
    return connections + LEAVING_MAX + KEPT


def connections_possible(connections: int) -> int:
    """Raise the soft limit as needed, and return how many of `connections` there is room for."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = descriptors_needed(connections)
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return connections
    raised = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (raised, hard))
    # A system that allows next to nothing still serves somebody.
    return min(connections, max(16, raised - descriptors_needed(0)))
