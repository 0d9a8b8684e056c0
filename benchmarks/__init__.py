"""Benchmarks: `python -m benchmarks.NAME [--quick] [--json FILE]`, one command each."""

from tidelens import blas

blas.wait_asleep()  # as the product does
