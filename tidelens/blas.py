"""How the threads of numpy's linear algebra wait for work: asleep. No numpy here.

OpenBLAS lets them spin after each product until 2**26 ticks of the clock have gone by without
another, which on the machine of docs/benchmarks took a whole core as long as there were ten
products a second: one that encoders, searches and Kafka want. It reads this when it is loaded.
"""

import os

# As a power of two. From 4, the least, to 26 the products take equally long.
_TICKS = 10


def wait_asleep() -> None:
    """Call before numpy is imported, here and in the processes started from here."""
    os.environ.setdefault("OPENBLAS_THREAD_TIMEOUT", str(_TICKS))
