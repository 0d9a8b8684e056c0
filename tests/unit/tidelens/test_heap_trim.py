"""The free memory of a fragmented heap goes back to the system."""

import subprocess
import sys

import pytest

# In a process of its own, whose heap no other test has been in.
FRAGMENTED = """
import asyncio, psutil
from tidelens.process.heap_trim import trim

def resident():
    return psutil.Process().memory_info().rss / 2**20

async def main():
    blocks = [bytes(50_000) for _ in range(4_000)]
    kept = [bytes(1_000) for _ in range(8_000)]
    blocks = [bytes(50_000) if n % 2 else bytes(700) for n in range(8_000)]
    small = [block for block in blocks if len(block) == 700]
    del blocks
    before = resident()
    task = asyncio.create_task(trim(0.05))
    await asyncio.sleep(1)
    print(before - resident())
    task.cancel()
    return kept, small

asyncio.run(main())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's")
def test_holes_between_blocks_are_given_back() -> None:
    ran = subprocess.run(
        [sys.executable, "-c", FRAGMENTED], capture_output=True, text=True, check=True, timeout=60
    )
    assert float(ran.stdout) > 50
