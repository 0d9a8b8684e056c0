"""Fault points: named points between the steps of a commit, where tests kill the process.

`reach("encode.sent")` does nothing unless TIDELENS_FAULT names that point. The process then kills
itself with SIGKILL; `encode.sent:n` does so when the point is reached for the n-th time, and
`encode.sent:n:stop` stops the process there with SIGSTOP. The points are part of the product so
that tests kill it on its real path. An inactive point costs one look-up in a dictionary.
"""

import os
import signal

POINTS = frozenset(
    {
        "takeover.fencing",  # partitions assigned, their former owner about to be fenced
        "takeover.fenced",  # former owner fenced, the committed offset not read
        "encode.claimed",  # records read, nothing encoded
        "encode.encoded",  # vectors computed, no transaction yet
        "encode.sent",  # records sent in the open transaction, offsets not yet
        "encode.offsets_sent",  # offsets in the transaction, not committed
        "encode.committed",  # transaction committed, memory not yet advanced
        "index.applied",  # batch in the index, offsets not committed to the group
        "index.committed",  # offsets committed, no snapshot
        "snapshot.blobs",  # blobs written, no manifest
        "snapshot.manifest",  # manifest written, pointer still the old one
        "rebuild.spilled",  # rows in files, no segment yet
        "rebuild.built",  # segment in files, not mapped
        "rebuild.swapped",  # segment in use, in no snapshot
        "snapshot.pointer",  # pointer moved, old snapshots not yet deleted
        "space.begun",  # candidate space recorded, nothing of it encoded
        "space.encoded",  # recorded as encoded, no index yet
        "space.switched",  # active space recorded, still recorded as the candidate too
    }
)

VARIABLE = "TIDELENS_FAULT"

_passes: dict[str, int] = {}


def reach(point: str) -> None:
    """Kill or stop the process here if TIDELENS_FAULT names `point`.

    Raises ValueError if it names no fault point at all.
    """
    wanted = os.environ.get(VARIABLE)
    if wanted is None:
        return
    name, _, rest = wanted.partition(":")
    nth, _, how = rest.partition(":")
    if name not in POINTS:
        raise ValueError(f"TIDELENS_FAULT: no fault point {name!r}; known: {sorted(POINTS)}")
    if name != point:
        return
    _passes[point] = _passes.get(point, 0) + 1
    if how == "stop":
        if _passes[point] == int(nth):
            os.kill(os.getpid(), signal.SIGSTOP)
    elif _passes[point] >= int(nth or 1):
        os.kill(os.getpid(), signal.SIGKILL)
