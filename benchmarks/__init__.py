"""Benchmarks: `python -m benchmarks.NAME [--quick] [--json FILE]`, one command each."""

from tidelens.process import blas_threads

blas_threads.wait_asleep()  # as the product does
