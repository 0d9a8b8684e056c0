"""The wall clock behind the Clock port."""

import time


class SystemClock:
    """The wall clock, in seconds since the epoch."""

    def now(self) -> float:
        return time.time()
