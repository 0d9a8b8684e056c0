"""Run the rounds of tests/faults/kill_rounds.py.

    python -m tests.soak.kill_rounds [--rounds 200] [--seed N]

A round takes about ten seconds. The first one whose index differs from the log ends the run.
"""

import argparse
import asyncio
import os
import random
import tempfile
import time
from pathlib import Path

from contracts.errors import TidelensError
from streams.devbroker.broker import LocalBroker
from tests.faults.kill_rounds import ENCODER, ENCODER_POINTS, NODE_POINTS, Rounds
from tests.kits.broker_fixture import FAST
from tests.kits.kafka import collection
from tests.kits.s3_fixture import S3Server, free_port, s3mock_jar


async def run(folder: Path, rounds: int, seed: int) -> None:
    server = S3Server(free_port(), folder, s3mock_jar())
    os.environ.update(server.environment)
    broker = LocalBroker(folder / "kafka", extra=FAST)
    await asyncio.gather(server.start(), broker.start())
    try:
        async with collection(broker.bootstrap, space=ENCODER.space.name, partitions=2) as kit:
            bucket = await server.new_bucket()
            killing = Rounds(kit, folder, server, bucket, random.Random(seed), broker)
            began = time.monotonic()
            try:
                await killing.run(rounds, ENCODER_POINTS + NODE_POINTS)
            finally:
                away, killed = killing.s3_away, killing.broker_killed
                rounds_done = sum(killing.done.values())
                print(f"{rounds_done} rounds, S3 away in {away}, broker killed in {killed}")
                print(f"{time.monotonic() - began:.0f} s, seed {seed}: {dict(killing.done)}")
    finally:
        await broker.stop()
        await server.stop()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(2**32))
    arguments = parser.parse_args()
    print(f"seed {arguments.seed}")
    with tempfile.TemporaryDirectory() as folder:
        try:
            asyncio.run(run(Path(folder), arguments.rounds, arguments.seed))
        except (AssertionError, TidelensError) as error:
            raise SystemExit(f"failed: {error}") from error


if __name__ == "__main__":
    main()
