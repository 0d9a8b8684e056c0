"""The wall clock behind the Clock port."""

import time


class SystemClock:
    """Seconds since the epoch."""

    def now(self) -> float:
        return time.time()
