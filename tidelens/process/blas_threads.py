"""Put the threads of linear algebra to sleep soon after their work, by environment variables.

By default the threads of OpenBLAS (numpy) spin after each product until 2**26 ticks of the clock
have gone by, and those of libgomp (Faiss, torch) spin 300,000 times. On the machine of
docs/benchmarks, ten products a second took a whole core, and ten searches a tenth of one: time that
encoders, searches and Kafka need. Both libraries read the variables when they are loaded, so this
module imports neither numpy nor torch.
"""

import os

# The threads spin for 2**10 ticks. Products take equally long with every exponent from 4, the
# least that OpenBLAS takes, to 26.
_OPENBLAS_TICKS = 10
# Ten searches a second take 0.014 of a core instead of 0.10. Not to spin at all
# (OMP_WAIT_POLICY=PASSIVE) costs an encoder a fifth of its speed, since a model is many short
# loops; this value costs none.
_GOMP_TIMES = 20_000


def wait_asleep() -> None:
    """Set the variables, for this process and its children. Call it before numpy is imported."""
    os.environ.setdefault("OPENBLAS_THREAD_TIMEOUT", str(_OPENBLAS_TICKS))
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", str(_GOMP_TIMES))
