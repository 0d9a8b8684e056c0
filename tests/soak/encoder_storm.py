"""Run the storm of tests/faults/encoder_storm.py for a given time.

    python -m tests.soak.encoder_storm [--seconds 120] [--seed N]

The exit code is 1 if what the encoders wrote is not what was published.
"""

import argparse
import asyncio
import random
import tempfile
import time
from pathlib import Path

from contracts.errors import TidelensError
from streams.devbroker.broker import LocalBroker
from tests.faults.encoder_storm import Storm
from tests.kits.broker_fixture import FAST
from tests.kits.kafka import collection
from tests.oracles.encoder_output import ENCODER

_SHOWN_MAX = 20


async def run(folder: Path, seconds: float, seed: int) -> list[str]:
    broker = LocalBroker(folder / "kafka", heap_mb=256, extra=FAST)
    await broker.start()
    try:
        async with collection(broker.bootstrap, space=ENCODER.space.name, partitions=3) as kit:
            storm = Storm(kit, folder, seed)
            began = time.monotonic()
            try:
                return await storm.run(seconds)
            finally:
                print(f"{time.monotonic() - began:.0f} s, seed {seed}")
                for name, count in sorted(storm.counts.items()):
                    print(f"{count:8,}  {name}")
    finally:
        await broker.stop()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=120)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(2**32))
    arguments = parser.parse_args()
    print(f"seed {arguments.seed}", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        try:
            wrong = asyncio.run(run(Path(folder), arguments.seconds, arguments.seed))
        except (AssertionError, TidelensError) as error:
            raise SystemExit(f"failed: {error}") from error
    for violation in wrong[:_SHOWN_MAX]:
        print(violation)
    if wrong:
        raise SystemExit(f"{len(wrong)} violations")
    print("no violation")


if __name__ == "__main__":
    main()
