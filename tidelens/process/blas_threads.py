"""How the threads of linear algebra wait for work: soon asleep. Imports neither numpy nor torch.

OpenBLAS (numpy) lets them spin after each product until 2**26 ticks of the clock have gone by
without another, and libgomp (Faiss, torch) 300,000 times around: on the machine of docs/benchmarks
ten products a second took a whole core, and ten searches a tenth of one, which encoders, searches
and Kafka want. Both read this when they are loaded.
"""

import os

# As a power of two. From 4, the least, to 26 the products take equally long.
_OPENBLAS_TICKS = 10
# Ten searches a second take .014 of a core instead of .10. Never (OMP_WAIT_POLICY=PASSIVE) takes
# an encoder a fifth of its speed, since a model is many short loops; this takes none.
_GOMP_TIMES = 20_000


def wait_asleep() -> None:
    """Call before numpy is imported, here and in the processes started from here."""
    os.environ.setdefault("OPENBLAS_THREAD_TIMEOUT", str(_OPENBLAS_TICKS))
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", str(_GOMP_TIMES))
