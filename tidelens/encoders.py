"""The encoder processes of `up`: one for each space that is served, or about to be."""

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Self

import orjson
import structlog

from contracts.errors import TidelensError
from contracts.settings import Settings
from tidelens.runtime import RunFile
from tidelens.server import listen

if TYPE_CHECKING:
    from streams.control import Control

log = structlog.get_logger(__name__)

_NICE = 19
_STOP_S = 10.0
_AGAIN_S = 10.0


class EncoderProcess:
    """The encode role as a child: it ends when our end of its stdin does."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    @property
    def pid(self) -> int:
        return self._process.pid

    @classmethod
    async def start(cls, settings: Settings, model: str, metrics_port: int) -> Self:
        """It loads its model until it is told where Kafka is."""
        roots = [str(path) for path in settings.allow_roots]
        environment = {
            "CUDA_MPS_CLIENT_PRIORITY": "1",  # below that of queries, where GPUs are shared by MPS
            **os.environ,
            "TIDELENS_ENCODE_METRICS_PORT": str(metrics_port),
            "TIDELENS_HOST": settings.host,
            "TIDELENS_MODEL": model,
            "TIDELENS_PRECISION": settings.precision,
            "TIDELENS_TOPIC_PREFIX": settings.topic_prefix,
            "TIDELENS_ALLOW_ROOTS": orjson.dumps(roots).decode(),
        }
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "tidelens",
            "encode",
            "--attached",
            stdin=asyncio.subprocess.PIPE,
            env=environment,
            # A Ctrl-C is for us; we stop it in order. Not a session of its own: where Linux shares
            # processors among sessions (autogroup), niceness counts only within one.
            process_group=0,
            preexec_fn=_give_way,
        )
        return cls(process)

    def attach(self, brokers: str) -> None:
        """Tell it where Kafka is."""
        assert self._process.stdin is not None
        self._process.stdin.write(brokers.encode() + b"\n")

    async def watch(self) -> None:
        code = await self._process.wait()
        raise TidelensError(f"the encoder process ended with exit code {code}")

    async def stop(self) -> None:
        if self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.terminate()
            try:
                async with asyncio.timeout(_STOP_S):
                    await self._process.wait()
            except TimeoutError:
                self._process.kill()
                await self._process.wait()


def _give_way() -> None:
    """Queries, in our process and its other child, come first. Decoders inherit it."""
    os.nice(_NICE)
    # From here on it stands in the background of a terminal, which may stop it for writing there.
    signal.signal(signal.SIGTTOU, signal.SIG_IGN)


class Encoders:
    """Runs an encoder for each model that the control topic names, the first from the start.

    A space's encoder must run for as long as the space may answer, so that it stays current: those
    of the active space, of the one kept for a rollback, and of a candidate encoded once.
    """

    def __init__(self, settings: Settings, metrics_port: int, run_file: RunFile) -> None:
        self._settings = settings
        self._metrics_port = metrics_port
        self._run_file = run_file
        # Of /metrics: the port that is known is one encoder's, another gets a free one.
        self._ports: dict[str, int] = {}
        self._first: tuple[str, EncoderProcess] | None = None
        self._current = settings.model
        self._tasks: dict[str, asyncio.Task[None]] = {}

    async def start(self, model: str) -> None:
        """A first process, before Kafka is there, since loading a model takes longest."""
        self._first = (model, await self._new(model))

    async def stop(self) -> None:
        """End the first one if `run` has no use for it."""
        if self._first is not None:
            model, process = self._first
            self._first = None
            await self._stop(model, process)

    async def run(self, brokers: str, followed: "AsyncIterator[Control]") -> None:
        """Until cancelled, or until the current model's encoder fails."""
        async with asyncio.TaskGroup() as tasks:
            async for control in followed:
                wanted = _models(control, self._settings.model)
                self._current = wanted[0]
                if self._first is not None and self._first[0] not in wanted:
                    await self.stop()
                for model in wanted:
                    if model not in self._tasks:
                        self._tasks[model] = tasks.create_task(self._keep(model, brokers))
                for model in set(self._tasks) - set(wanted):
                    self._tasks.pop(model).cancel()

    async def _keep(self, model: str, brokers: str) -> None:
        while True:
            encoder = await self._started(model)
            try:
                encoder.attach(brokers)
                await encoder.watch()
            except TidelensError as error:
                if model == self._current:
                    raise
                log.error("encoder beside fails; trying again", model=model, error=str(error))
            finally:
                await self._stop(model, encoder)
            await asyncio.sleep(_AGAIN_S)

    async def _started(self, model: str) -> EncoderProcess:
        if self._first is not None and self._first[0] == model:
            process = self._first[1]
            self._first = None
            return process
        return await self._new(model)

    async def _new(self, model: str) -> EncoderProcess:
        port = self._metrics_port
        if port and port in self._ports.values():
            with contextlib.closing(listen(self._settings.host, 0)) as free:
                port = free.getsockname()[1]
            log.info("an encoder beside, with /metrics of its own", model=model, port=port)
        self._ports[model] = port
        process = await EncoderProcess.start(self._settings, model, port)
        self._run_file.child(f"encode {model}", process.pid)
        return process

    async def _stop(self, model: str, process: EncoderProcess) -> None:
        await process.stop()
        self._ports.pop(model, None)
        self._run_file.child(f"encode {model}", None)


def _models(control: "Control", default: str) -> list[str]:
    """The current one first."""
    models = [default] if control.active is None else [r.model for r in control.active.served]
    candidate = control.candidate
    if candidate is not None and candidate.encoded_at is not None:
        models.append(candidate.made.model)
    return list(dict.fromkeys(models))
