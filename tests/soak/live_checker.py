"""Run the live check of tests/faults/live_rounds.py.

    python -m tests.soak.live_checker --minutes N [--seed S]

The first list that differs from the log, or that comes too late, ends the run with an error.
"""

import argparse
import asyncio
import logging
import random
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))  # also as `python tests/soak/live_checker.py`

from contracts.testing.encoder import HashEncoder
from streams.devbroker.broker import LocalBroker
from tests.faults.live_rounds import LiveRounds
from tests.kits.broker_fixture import FAST
from tests.kits.kafka import collection
from tests.oracles.live_lists import Violation


async def run(folder: Path, minutes: float, seed: int) -> None:
    broker = LocalBroker(folder / "kafka", heap_mb=256, extra=FAST)
    await broker.start()
    try:
        space = HashEncoder().space.name
        async with collection(broker.bootstrap, space=space, partitions=2) as kit:
            rounds = LiveRounds(kit, folder, seed, broker=broker)
            began = time.monotonic()
            try:
                await rounds.run(minutes * 60)
            finally:
                print(f"{time.monotonic() - began:.0f} s, seed {seed}")
                for name, count in sorted(rounds.counts.items()):
                    print(f"{count:8,}  {name}")
    finally:
        await broker.stop()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(2**32))
    parser.add_argument("--folder", type=Path, help="keep the logs here")
    arguments = parser.parse_args()
    print(f"seed {arguments.seed}", flush=True)
    # That the broker is away is what we made.
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.folder or Path(temporary)
        try:
            asyncio.run(run(folder, arguments.minutes, arguments.seed))
        except* Violation as violations:
            raise SystemExit(
                "\n".join(f"violated: {one}" for one in violations.exceptions)
            ) from None


if __name__ == "__main__":
    main()
