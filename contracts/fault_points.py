"""Named points between the steps of multi-step commits, where tests kill the process.

`reach("encode.sent")` does nothing unless TIDELENS_FAULT names that point: then the process kills
itself with SIGKILL, on the n-th pass when written `encode.sent:n`; with `encode.sent:n:stop` it
stops there (SIGSTOP) until somebody wakes it. A shipped no-op costs one dictionary look-up; a fault
that is only in the tests would not be on the real path.
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
    """Die or stop here if TIDELENS_FAULT says so."""
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
