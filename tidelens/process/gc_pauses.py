"""What keeps the interpreter's own pauses short in a process that answers searches, or encodes."""

import gc
import sys

# A thread that wants the interpreter waits this long for one that computes; Python's own is 5 ms,
# ten searches.
_SWITCH_S = 0.0005
# Young objects before a collection, and collections before one of the older generations. One of
# the middle walks what the first two numbers make: with 20 that took 125 ms, with 2 it takes 15.
_THRESHOLDS = (10_000, 2, 500)


def shorten_pauses() -> None:
    """Call once everything is imported, in a process whose answers somebody waits for."""
    sys.setswitchinterval(_SWITCH_S)
    forget_imports()


def forget_imports() -> None:
    """Collect garbage less often, and never again look at what stands now.

    A full collection walks every object, those of all imported modules too: 40 ms of 118 with
    300,000 rows, in which no search is answered.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(*_THRESHOLDS)
