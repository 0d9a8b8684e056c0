"""A producer leaves a transaction open, in front of what others publish.

Nobody may read the records behind it. First its producer commits late; then a producer dies, and
the broker ends its transaction.
"""

import asyncio
import time

from aiokafka import AIOKafkaProducer

from tests.kits.roles import answering, free_port, said
from tests.soak.lag_readings import captions_of, lag_until, metric, published, read_lag
from tests.soak.operations import Ground, Outcome
from tidelens.client import Client

_ITEMS = 50
_TOPIC = "tidelens.captions"
_PARTITIONS = 4
_TIMEOUT_S = 20.0


async def run(ground: Ground) -> Outcome:
    broker = await ground.broker(transaction_abort_timed_out_transaction_cleanup_interval_ms="1000")
    address, port = broker.bootstrap, free_port()
    node = await ground.role("up", "--brokers", address, "--port", str(port))
    reported, slowest = [], 0.0
    async with Client(f"http://127.0.0.1:{port}") as client:
        await answering(client, node)
        for at, dies in enumerate((False, True)):
            producer = await _opened(address, f"other.{at}")
            began = time.monotonic()
            await published(client, at * _ITEMS, _ITEMS, waited=False)
            answer, _ = await lag_until(address, lambda answer: (answer["behind_s"] or 0) > 11)
            held = [r for r in answer["partitions"] if r["topic"] == _TOPIC]
            assert sum(row["records"] for row in held) == 0
            assert sum(row["unstable"] for row in held) == _ITEMS + _PARTITIONS
            behind_s = (await client.get("/v1/lag"))["behind_s"]
            seconds = await metric(port, "tidelens_unstable_seconds", topic=_TOPIC)
            waited_s = time.monotonic() - began
            assert behind_s > 10 and seconds is not None and seconds > 10
            reported.append(
                f"lag: behind {answer['behind_s']} s, /v1/lag {behind_s} s, metric "
                f"tidelens_unstable_seconds {seconds:.1f}, after {waited_s:.1f} s"
            )
            if not dies:
                doctor = (await said("doctor", "--brokers", address))[1]
                lines = [line for line in doctor.splitlines() if "open transaction" in line]
                assert len(lines) == _PARTITIONS, doctor
                reported.append(f"doctor: {lines[0]}")
                await producer.commit_transaction()
                await producer.stop()
            else:
                # Its process is gone: nobody aborts, and the broker waits for the time-out.
                await _abandoned(producer)
                await asyncio.sleep(max(0.0, began + _TIMEOUT_S - time.monotonic()))
            _, healed_s = await lag_until(address, lambda answer: answer["behind_s"] == 0)
            slowest = max(slowest, healed_s)
            assert sum(r["unstable"] for r in (await read_lag(address))["partitions"]) == 0
        # The first transaction's own records were committed, but they are not this test's captions.
        found = await captions_of(client)
    return Outcome(reported, slowest, 2 * _ITEMS - found)


async def _opened(address: str, name: str) -> AIOKafkaProducer:
    """Open a transaction with a delete of an unknown item in each partition."""
    producer = AIOKafkaProducer(
        bootstrap_servers=address,
        transactional_id=name,
        transaction_timeout_ms=int(_TIMEOUT_S * 1000),
    )
    await producer.start()
    await producer.begin_transaction()
    for partition in range(_PARTITIONS):
        await producer.send_and_wait(_TOPIC, None, b"nobody", partition=partition)
    return producer


async def _abandoned(producer: AIOKafkaProducer) -> None:
    """End its clients as a killed process's end, without a word to the coordinator."""
    await producer._sender.close()
    await producer.client.close()
    producer._closed = True
