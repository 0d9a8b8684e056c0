"""The query encoder's process: what waits for it is told as it is."""

import asyncio

import pytest
from blockbuster import BlockBuster

from consumers.query import ProcessQueryEncoder, QueryModel
from contracts.memory import HashEncoder
from contracts.metrics import Metrics

pytestmark = pytest.mark.anyio


async def test_the_queue_is_as_deep_as_it_says(no_blocking_calls: BlockBuster) -> None:
    no_blocking_calls.deactivate()  # starting a process is one
    metrics = Metrics()
    model = QueryModel("hash", 1, None, False, 1_000_000, 1_000_000, 10.0, 2**31)
    encoder = ProcessQueryEncoder(model, metrics, batch_max=8, queue_max=8, cache_max=8)

    def depth() -> float | None:
        return metrics.registry.get_sample_value("tidelens_queue_depth", {"queue": "query"})

    assert depth() == 0
    asking = [asyncio.create_task(encoder.text(text)) for text in ("one", "two")]
    await asyncio.sleep(0)
    assert depth() == 2
    running = asyncio.create_task(encoder.run())
    async with asyncio.timeout(60):
        found = await asyncio.gather(*asking)
    assert depth() == 0
    expected = HashEncoder().encode_texts(["one", "two"])
    assert [vector.tobytes() for vector in found] == [row.tobytes() for row in expected]
    running.cancel()
    await asyncio.wait([running])
