"""The Kafka of `up`: the user's cluster, or a local broker that is started again when it ends."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from contracts.settings import KafkaSettings, Settings
from contracts.supervision.processes import Part, Parts, exit_reason
from streams.devbroker.broker import LocalBroker
from streams.devbroker.ports import BrokerPorts
from streams.kafka.connection import KafkaConnection
from tidelens.runtime.run_file import RunFile


@asynccontextmanager
async def open_kafka(
    settings: Settings,
    kafka: KafkaSettings,
    ports: BrokerPorts | None,
    run_file: RunFile,
    parts: Parts,
    stop: asyncio.Event,
) -> AsyncIterator[str]:
    """Yield the address of the user's cluster, or of a local Apache Kafka on `ports`.

    A local one is started again whenever it ends, until `stop` is set. Raises BrokerUnavailable if
    the user's cluster does not answer.
    """
    if settings.brokers:
        await KafkaConnection(settings.brokers, kafka).require_reachable()
        yield settings.brokers
        return
    broker = LocalBroker(settings.data, ports=ports)
    part = Part("broker", pause_max_s=settings.restart_pause_max_s)
    with parts.registered(part):
        try:
            address = await broker.start()
            run_file.child("kafka", broker.pid)
            part.mark_running()
            keeping = asyncio.create_task(keep_running(broker, part, run_file, stop), name="broker")
            try:
                yield address
            finally:
                keeping.cancel()
                await asyncio.wait([keeping])
        finally:
            await broker.stop()


async def keep_running(
    broker: LocalBroker, part: Part, run_file: RunFile, stop: asyncio.Event
) -> None:
    """Start a broker again whenever it ends, on its old address and data, until cancelled.

    Once `stop` is set nothing is started, since systemd stops all processes of a service together.
    """
    while True:
        reason = exit_reason(await broker.wait())
        run_file.child("kafka", None)
        started = False
        while not started:
            if not stop.is_set():
                await part.wait_before_restart(reason)
            if stop.is_set():
                return
            try:
                await broker.start()
                started = True
            except Exception as error:
                # The disk may be full, or a port in use: searches go on meanwhile, and the next
                # attempt may succeed.
                reason = f"it does not start: {error or repr(error)}"
        run_file.child("kafka", broker.pid)
        part.mark_running()
