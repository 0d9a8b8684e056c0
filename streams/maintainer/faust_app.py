"""The streams app: a Faust App as the process shell of the index-maintainer stream.

It hosts the maintainer loop as a service, the timers, and an agent that watches the dead letters.
Faust does not carry the Kafka-to-Faiss work, since an agent takes 9,000 records/s where the plain
loop takes 130,000. It holds the index in no Table, since a Table loses a record when its recovery
ends under live writes. Nothing exact depends on an agent, which reads uncommitted records. Each
node has its own app id, so every node's agent sees every record.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import faust
from faust.transport.drivers.aiokafka import AIOKafkaConsumerThread
from mode import Service
from mode.threads import WorkerThread
from mode.types import ServiceT
from yarl import URL

from contracts.events.dead_letter import REASON, SPACE, letter_space
from contracts.ports.clock import Clock
from contracts.supervision.side_tasks import SideTasks
from contracts.topics import Names
from contracts.user_folders import make_private
from streams.kafka.connection import KafkaConnection
from streams.maintainer.maintainer import Maintainer
from streams.maintainer.windowed_counts import WindowedCounts
from streams.topics.watch import EVERY_S

_COMMIT_EVERY_S = 2.0
_COMMITTED_EVERY_S = 10.0
_SNAPSHOT_CHECK_S = 1.0
_REBUILD_EVERY_S = 1.0
_AUDIT_EVERY_S = 5.0
# Faust's default of 60 s keeps the timers of a node waiting that was killed and started again.
_SESSION_S = 6.0


class _DaemonThread(WorkerThread):  # type: ignore[misc, unused-ignore]
    """The thread of Faust's consumer, which does not keep a process from ending.

    If it is stopped while Kafka hangs, it may go on asking for ever, and would hold up the process.
    """

    def __init__(self, *given: Any, **named: Any) -> None:
        super().__init__(*given, **named)
        self.daemon = True


AIOKafkaConsumerThread.Worker = _DaemonThread

Step = Callable[[], Awaitable[object]]


class MaintainerService(Service):  # type: ignore[misc, unused-ignore]
    """The maintainer's loop as a service of the app: its death is the app's."""

    def __init__(self, maintainer: Maintainer, **options: Any) -> None:
        self._maintainer = maintainer
        super().__init__(**options)

    @Service.task
    async def _maintain(self) -> None:
        await self._maintainer.run()


class StreamsApp(faust.App):  # type: ignore[misc, unused-ignore]
    """An app that starts the maintainer before Faust's own group has its assignment.

    A service given to `app.service` starts only after that; behind a node that was killed, whose
    membership has to time out, that took 64 s here.
    """

    def __init__(self, app_id: str, maintainer: Maintainer, **options: Any) -> None:
        self._maintainer = maintainer
        super().__init__(app_id, **options)

    def on_init_dependencies(self) -> Iterable[ServiceT]:
        hosted = MaintainerService(self._maintainer, loop=self.loop, beacon=self.beacon)
        return [hosted, *super().on_init_dependencies()]


def streams_app(
    connection: KafkaConnection,
    names: Names,
    app_id: str,
    data_dir: Path,
    maintainer: Maintainer,
    dead_letters: WindowedCounts,
    clock: Clock,
    side: SideTasks,
) -> faust.App:
    """Return the app; start it with `await app.start()` under a loop and signals of our own.

    An error of a timer would end the app, and the node with it, so `side` catches it.
    """
    make_private(data_dir)  # Faust dies silently without it
    app = StreamsApp(
        app_id,
        maintainer,
        broker=[URL(f"kafka://{address.strip()}") for address in connection.brokers.split(",")],
        broker_credentials=connection.faust_credentials(),
        broker_client_id=connection.kafka.client_id,
        broker_session_timeout=_SESSION_S,
        broker_heartbeat_interval=_SESSION_S / 3,
        broker_rebalance_timeout=_SESSION_S,
        datadir=data_dir,
        store="memory://",
        web_enabled=False,
        topic_disable_leader=True,
        topic_allow_declare=False,
        consumer_auto_offset_reset="latest",
        # aiokafka's default poll interval would make an idle observer leave its group.
        broker_max_poll_interval=2**31 / 1000 - 1,
    )

    for name, (every_s, step) in timers(maintainer).items():
        app.timer(interval=every_s, name=name)(_supervised(side, name, step))

    letters = app.topic(names.dead_letters, key_serializer="raw", value_serializer="raw")

    @app.agent(letters)
    async def watch_dead_letters(stream: faust.StreamT[bytes]) -> AsyncIterator[None]:
        async for event in stream.events():
            with side.count_failures("dead letters"):
                reason = counted_reason(event.headers or {}, names.space)
                if reason is not None:
                    dead_letters.add(reason, clock.now())
            yield

    return app


def counted_reason(headers: Mapping[str, bytes | str], space: str) -> str | None:
    """Return the reason of a letter of `space`, or of one that names no space; None otherwise.

    Marks are not letters, and letters of another space are copies that its encoder writes.
    """
    found = {name: headers[name] for name in (REASON, SPACE) if name in headers}
    raw = {name: one.encode() if isinstance(one, str) else one for name, one in found.items()}
    if REASON not in raw or letter_space(raw.get(SPACE)) not in (space, None):
        return None
    return raw[REASON].decode("utf-8", "replace")


def timers(maintainer: Maintainer) -> Mapping[str, tuple[float, Step]]:
    """Return the tasks beside the fold by name, each with its interval in seconds."""
    return {
        "commit": (_COMMIT_EVERY_S, maintainer.commit),
        "committed offsets": (_COMMITTED_EVERY_S, maintainer.check_committed),
        "topics": (EVERY_S, maintainer.check_topics),
        "snapshot": (_SNAPSHOT_CHECK_S, maintainer.snapshot_if_due),
        "rebuild": (_REBUILD_EVERY_S, maintainer.merge_if_due),
        "index growing rows": (_REBUILD_EVERY_S, maintainer.merge_growing_if_due),
        "audit": (_AUDIT_EVERY_S, maintainer.audit),
    }


def _supervised(side: SideTasks, name: str, step: Step) -> Callable[[], Awaitable[None]]:
    async def supervised() -> None:
        await side.run_step(name, step)

    return supervised
