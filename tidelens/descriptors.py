"""Open files: enough for the connections that we let in, and some kept for everything else.

A server without one left cannot accept, cannot reach Kafka, and cannot write a snapshot.
"""

import resource
from dataclasses import replace

import structlog

from contracts.settings import Settings
from tidelens.door import LEAVING_MAX, Door, DoorLimits

log = structlog.get_logger(__name__)

# For Kafka, snapshots, segments, models, child processes and the references of queries.
KEPT = 512


def open_door(settings: Settings) -> Door:
    """A door that lets no more in than there are descriptors for."""
    limits = DoorLimits.of(settings)
    room = connections_possible(limits.connections_max)
    if room < limits.connections_max:
        log.warning(
            "fewer connections than set, for want of open files",
            http_connections_max=limits.connections_max,
            possible=room,
            fix=f"ulimit -n {wanted(limits.connections_max)}",
        )
    return Door(replace(limits, connections_max=room))


def wanted(connections: int) -> int:
    """Descriptors for so many connections, those that leave, and all else."""
    return connections + LEAVING_MAX + KEPT


def connections_possible(connections: int) -> int:
    """Of `connections`, as many as there is room for, the soft limit being raised as needed."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = wanted(connections)
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return connections
    raised = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (raised, hard))
    # A system that allows next to nothing still serves somebody.
    return min(connections, max(16, raised - wanted(0)))
