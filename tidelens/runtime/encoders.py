"""The encoders of `up`: one process for each space that is served, or about to be."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from typing import TYPE_CHECKING

import structlog

from contracts.settings import Settings
from contracts.supervision.processes import Part, Parts
from contracts.supervision.side_tasks import SideTasks
from tidelens.runtime.encoder_process import EncoderExit, EncoderProcess
from tidelens.runtime.run_file import RunFile
from tidelens.server.server import listen

if TYPE_CHECKING:
    from streams.registry.control_topic import Control

log = structlog.get_logger(__name__)


class Encoders:
    """The encoder processes of `up`: one for each model that the control topic names.

    A space's encoder must run for as long as the space may answer, so that the space stays current:
    this means the active space, the one kept for a rollback, and a candidate that was encoded once.
    An encoder that ends is started again, with one exception: if the current model's encoder fails
    before it ever worked, `run` raises its error.
    """

    def __init__(
        self,
        settings: Settings,
        metrics: socket.socket | None,
        run_file: RunFile,
        parts: Parts,
    ) -> None:
        """Take `metrics`, the socket of one encoder's /metrics, or None if no encoder serves it."""
        self._settings = settings
        self._metrics = metrics
        self._run_file = run_file
        self._parts = parts
        # The model whose encoder has the known listener; other encoders get a free port.
        self._metrics_of: str | None = None
        self._first: tuple[str, EncoderProcess] | None = None
        self._current = settings.model
        # Whether the first encoder has worked; from then on `up` goes on when encoders end.
        self._proven = False
        self._tasks: dict[str, asyncio.Task[None]] = {}

    async def start(self, model: str) -> None:
        """Start the first process before Kafka runs, since loading a model takes longest."""
        self._metrics_of = model
        self._first = (model, await self._new(model, self._metrics))

    async def stop(self) -> None:
        """Stop the process that `start` made, unless `run` has taken it over."""
        if self._first is not None:
            model, process = self._first
            self._first = None
            await self._stop(model, process)
            self._metrics_of = None

    async def run(
        self, brokers: str, follow: Callable[[], AsyncIterator["Control"]], side: SideTasks
    ) -> None:
        """Run until cancelled. Raises the error of the current model's encoder if it never worked.

        `follow` yields each state of the control topic, and is called again if it fails.
        """
        async with asyncio.TaskGroup() as tasks:

            async def wanted() -> None:
                async for control in follow():
                    await self._reconcile(_models(control, self._settings.model), brokers, tasks)

            await side.forever("wanted encoders", wanted)

    async def _reconcile(self, wanted: list[str], brokers: str, tasks: asyncio.TaskGroup) -> None:
        """Start the encoders that are wanted and do not run, and stop the others."""
        self._current = wanted[0]
        if self._first is not None and self._first[0] not in wanted:
            await self.stop()
        for model in wanted:
            if model not in self._tasks:
                self._tasks[model] = tasks.create_task(self._keep_running(model, brokers))
        for model in set(self._tasks) - set(wanted):
            self._tasks.pop(model).cancel()

    async def _keep_running(self, model: str, brokers: str) -> None:
        """Run an encoder, and start it again whenever it ends, until cancelled."""
        part = Part("encode", model, pause_max_s=self._settings.restart_pause_max_s)
        with self._parts.registered(part), self._listener(model) as listener:
            while True:
                try:
                    process = await self._started(model, listener)
                except OSError as error:  # such as no memory for another process
                    ended = EncoderExit(f"it cannot be started: {error}")
                else:
                    ended = await self._watched(part, process, brokers)
                if model == self._current and not self._proven and ended.error is not None:
                    if ended.trace is not None:
                        log.error("the encoder failed", exception=ended.trace)
                    raise ended.error
                await part.wait_before_restart(ended.reason, trace=ended.trace)

    async def _watched(self, part: Part, process: EncoderProcess, brokers: str) -> EncoderExit:
        def works() -> None:
            part.mark_running()
            # Only at the first start, or each restart would write a line.
            if part.restarts == 0:
                log.info("encoding", model=part.model)
            self._proven = self._proven or part.model == self._current

        try:
            process.attach(brokers)
            return await process.watch(works)
        finally:
            await self._stop(part.model, process)

    async def _started(self, model: str, listener: socket.socket | None) -> EncoderProcess:
        if self._first is not None and self._first[0] == model:
            process = self._first[1]
            self._first = None
            return process
        return await self._new(model, listener)

    async def _new(self, model: str, listener: socket.socket | None) -> EncoderProcess:
        process = await EncoderProcess.start(self._settings, model, listener)
        self._run_file.child(f"encode {model}", process.pid)
        return process

    async def _stop(self, model: str, process: EncoderProcess) -> None:
        await process.stop()
        self._run_file.child(f"encode {model}", None)

    @contextlib.contextmanager
    def _listener(self, model: str) -> Iterator[socket.socket | None]:
        """Yield the socket of this encoder's /metrics, which stays open across its restarts."""
        if self._metrics is None or self._metrics_of in (None, model):
            self._metrics_of = model
            try:
                yield self._metrics
            finally:
                self._metrics_of = None
            return
        with listen(self._settings.host, 0) as free:
            port = free.getsockname()[1]
            log.info("another encoder serves its own /metrics", model=model, port=port)
            yield free


def _models(control: "Control", default: str) -> list[str]:
    """Return the models to encode with, the current one first."""
    models = [default] if control.active is None else [r.model for r in control.active.served]
    candidate = control.candidate
    if candidate is not None and candidate.encoded_at is not None:
        models.append(candidate.ref.model)
    return list(dict.fromkeys(models))
