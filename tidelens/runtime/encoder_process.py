"""The encode role as a child process of `up`; it stops when its standard input ends."""

import asyncio
import contextlib
import os
import signal
import socket
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Self

import orjson

from contracts.errors import TidelensError
from contracts.settings import Settings
from contracts.supervision.children import module_command
from contracts.supervision.processes import exit_reason
from tidelens.process.child_reports import ChildReport, ChildReports

_NICE = 19
_STOP_S = 10.0
# Signals with which people and services end a process; any other signal means that it crashed.
_FROM_OUTSIDE = frozenset({signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP})


@dataclass(frozen=True, slots=True)
class EncoderExit:
    """The reason why a child ended.

    `error` is what a first start fails with; it is None where starting the child again may help.
    `trace` is the traceback of a defect.
    """

    reason: str
    error: TidelensError | None = None
    trace: str | None = None


class EncoderProcess:
    """One encoder, running in a child process."""

    def __init__(self, process: asyncio.subprocess.Process, reports: ChildReports) -> None:
        self._process = process
        self._reports = reports

    @property
    def pid(self) -> int:
        return self._process.pid

    @classmethod
    async def start(
        cls, settings: Settings, model: str, listener: socket.socket | None, *, nice: int = _NICE
    ) -> Self:
        """Start an encoder, which loads its model and then waits for Kafka's address.

        `listener` is the listening socket of its /metrics, or None if it serves none. `nice` is
        added to the niceness of this process.
        """
        roots = [str(path) for path in settings.allow_roots]
        environment = {
            "CUDA_MPS_CLIENT_PRIORITY": "1",  # below that of queries, where GPUs are shared by MPS
            **os.environ,
            "TIDELENS_ENCODE_METRICS_PORT": str(_port(listener)),
            "TIDELENS_HOST": settings.host,
            "TIDELENS_MODEL": model,
            "TIDELENS_PRECISION": settings.precision,
            "TIDELENS_TOPIC_PREFIX": settings.topic_prefix,
            "TIDELENS_ALLOW_ROOTS": orjson.dumps(roots).decode(),
        }
        async with ChildReports.opened() as (reports, report_to):
            passed = [report_to]
            arguments = ["--attached", "--report-to", str(report_to)]
            if listener is not None:
                passed.append(listener.fileno())
                arguments += ["--metrics-listener", str(listener.fileno())]
            process = await asyncio.create_subprocess_exec(
                *module_command("tidelens", "encode", *arguments),
                stdin=asyncio.subprocess.PIPE,
                env=environment,
                pass_fds=passed,
                # It has a process group of its own, since a Ctrl-C is for `up`, which stops it in
                # order. It has no session of its own: where Linux shares processors among sessions
                # (autogroup), niceness counts only within one.
                process_group=0,
                preexec_fn=partial(_give_way, nice),
            )
            return cls(process, reports)

    def attach(self, brokers: str) -> None:
        """Send Kafka's address to the child, which then begins to encode."""
        assert self._process.stdin is not None
        self._process.stdin.write(brokers.encode() + b"\n")

    async def watch(self, works: Callable[[], None]) -> EncoderExit:
        """Wait for the end of the child, and return why; call `works` when it begins to encode."""
        failure: ChildReport | None = None
        async for report in self._reports:
            if report.failure is None:
                works()
            else:
                failure = report
        code = await self._process.wait()
        if failure is None:
            why = exit_reason(code)
            by_itself = code != 0 and -code not in _FROM_OUTSIDE
            return EncoderExit(why, TidelensError(f"the encoder: {why}") if by_itself else None)
        return EncoderExit(
            failure.failure or "", None if failure.retriable else failure.error(), failure.trace
        )

    async def stop(self) -> None:
        """Terminate the child, and kill it if it has not ended within 10 s."""
        if self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.terminate()
            try:
                async with asyncio.timeout(_STOP_S):
                    await self._process.wait()
            except TimeoutError:
                with contextlib.suppress(ProcessLookupError):
                    self._process.kill()
                await self._process.wait()
        self._reports.close()


def _port(listener: socket.socket | None) -> int:
    return listener.getsockname()[1] if listener is not None else 0


def _give_way(nice: int) -> None:
    """Lower the priority of this process and its decoders, since queries come first."""
    os.nice(nice)
    # The process is now in the background of a terminal, which may stop it when it writes there.
    signal.signal(signal.SIGTTOU, signal.SIG_IGN)
