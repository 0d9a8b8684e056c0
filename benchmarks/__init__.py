"""Benchmarks: `python -m benchmarks.NAME [--quick] [--json FILE]`, one command each."""

from tidelens import spinning

spinning.wait_asleep()  # as the product does
