"""The client's imports: a program that only asks a server loads little."""

import subprocess
import sys

import pytest

HEAVY = {"torch", "faiss", "aiokafka", "transformers", "numpy", "pydantic", "starlette"}


@pytest.mark.parametrize("asked", ["import tidelens", "import tidelens; tidelens.Client"])
def test_the_client_loads_none_of_the_servers_packages(asked: str) -> None:
    program = f"{asked}; import sys; print(*{{name.partition('.')[0] for name in sys.modules}})"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60
    )
    assert HEAVY.isdisjoint(done.stdout.split())
