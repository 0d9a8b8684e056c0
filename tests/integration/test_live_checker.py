"""Live lists are exact at every cursor while a replica is killed and clients go to the other.

This runs a few seconds of `tests/soak/live_checker.py`, which runs for hours and kills the broker
too. In memory, `tests/property/test_live_deltas.py` checks the same of one replica.
"""

import random
from pathlib import Path

import pytest

from tests.faults.live_rounds import LiveRounds
from tests.kits.kafka import collection
from tests.oracles.live_lists import ENCODER

pytestmark = [pytest.mark.anyio, pytest.mark.broker, pytest.mark.long, pytest.mark.timeout(400)]


async def test_every_list_is_exact_at_every_cursor(kafka, tmp_path: Path) -> None:
    seed = random.SystemRandom().randrange(2**32)
    print(f"seed {seed}")
    async with collection(kafka.bootstrap, space=ENCODER.space.name, partitions=2) as kit:
        rounds = LiveRounds(kit, tmp_path, seed, actions=("kill replica",), pause_s=(3, 8))
        await rounds.run(14)
    counts = rounds.counts
    assert counts["done: kill replica"] >= 1
    assert any(count for name, count in counts.items() if name.startswith("resumed on the other"))
    assert counts["claims that hold"] > 200
