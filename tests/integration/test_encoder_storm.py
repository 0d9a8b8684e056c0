"""Invariants 2 and 3 while encoders are killed, stalled, leave and join, for 20 s.

`tests/soak/encoder_storm.py` does it for two minutes. Shorter tests are in `test_kills.py`, which
kills encoders, and in `test_ownership.py`, where they join, leave and stand still.
"""

import random
from pathlib import Path

import pytest

from tests.faults.encoder_storm import Storm
from tests.kits.kafka import collection
from tests.oracles.encoder_output import ENCODER

pytestmark = [pytest.mark.anyio, pytest.mark.broker, pytest.mark.long, pytest.mark.timeout(400)]


async def test_a_storm_over_three_encoders(kafka, tmp_path: Path) -> None:
    seed = random.SystemRandom().randrange(2**32)
    print(f"seed {seed}")
    async with collection(kafka.bootstrap, space=ENCODER.space.name, partitions=3) as kit:
        storm = Storm(kit, tmp_path, seed)
        violations = await storm.run(20)
    print(storm.counts)
    assert violations == []
    assert storm.counts["joined"] >= 3
    assert all(storm.counts[blow] >= 1 for blow in ("kill -9", "leave", "stall"))
    # It is encoded in the storm, not only behind it.
    assert storm.counts["encoded when the storm ended"] > 0
    assert storm.counts["dead letters"] > 100
