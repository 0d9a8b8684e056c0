"""Compaction forced to run on the real broker: the index stays equal to the log."""

import asyncio
import random
from pathlib import Path

import pytest

from contracts.memory import HashEncoder
from tests.integration.test_kills import all_encoded, assert_index_is_the_log, churn
from tests.kit import Collection, collection
from tests.roles import answering, free_port, of, role
from tidelens.client import Client

pytestmark = [pytest.mark.anyio, pytest.mark.broker, pytest.mark.timeout(150)]


async def embeddings_left(kit: Collection) -> int:
    return sum(map(len, (await kit.read_all(kit.names.embeddings("captions"))).values()))


async def digests(client: Client) -> list[str]:
    return [entry["digest"] for entry in (await client.get("/v1/status"))["digests"]]


async def test_a_replay_after_compaction_comes_to_the_live_state(kafka, tmp_path: Path) -> None:
    seed = random.SystemRandom().randrange(2**32)
    print(f"seed {seed}")
    dice = random.Random(seed)
    port = free_port()
    space = HashEncoder().space.name
    async with collection(kafka.bootstrap, space=space, partitions=2, eager_compaction=True) as kit:
        arguments = of(kit, "--port", str(port))
        async with (
            role(tmp_path, "encode", *of(kit)),
            role(tmp_path, "index", *arguments) as live,
            Client(f"http://127.0.0.1:{port}") as client,
        ):
            await answering(client, live)
            written = 0
            async with asyncio.timeout(60):
                # Until well over half of what was written is gone.
                while written < 400 or await embeddings_left(kit) > written // 2:
                    await churn(kit, dice, 40)
                    written += 40
                    await asyncio.sleep(0.3)
            await all_encoded(kit)
            async with asyncio.timeout(20):
                while (await client.get("/v1/lag"))["behind_s"]:
                    await asyncio.sleep(0.2)
            await assert_index_is_the_log(kit, client)
            before = await digests(client)
            assert await live.stop() == 0
        (tmp_path / "fresh").mkdir()
        async with (
            role(tmp_path / "fresh", "index", *arguments) as fresh,
            Client(f"http://127.0.0.1:{port}") as client,
        ):
            await answering(client, fresh)
            await assert_index_is_the_log(kit, client)
            assert await digests(client) == before
