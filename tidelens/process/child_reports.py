"""Reports of a child process to its parent: that it works, or why it does not.

Each report is one line of JSON, through a pipe that only the two have, since libraries may print to
standard output.
"""

import asyncio
import contextlib
import os
import traceback
from collections.abc import AsyncIterator
from dataclasses import asdict, dataclass

import orjson

from contracts.characters import escaped
from contracts.errors import TidelensError, UsageError
from tidelens.process.extras import explain_import

_MESSAGE_CHARS_MAX = 2_000
_TRACE_CHARS_MAX = 8_000


@dataclass(frozen=True, slots=True)
class ChildReport:
    """A report: why the child failed, or that it works from now on if `failure` is None.

    `trace` is the traceback of a failure that is a defect, not a TidelensError.
    """

    failure: str | None = None
    exit_code: int = 0
    retriable: bool = False
    trace: str | None = None

    @classmethod
    def of(cls, error: Exception) -> "ChildReport":
        """Return the report of an error, with its texts cut to a bounded length."""
        error = explain_import(error) or error
        if isinstance(error, TidelensError):
            code = 2 if isinstance(error, UsageError) else 1
            return cls(str(error)[:_MESSAGE_CHARS_MAX], code, error.retriable)
        trace = "".join(traceback.format_exception(error))
        return cls(repr(error)[:_MESSAGE_CHARS_MAX], 1, trace=trace[-_TRACE_CHARS_MAX:])

    def error(self) -> TidelensError:
        """Return the failure as an error of the parent."""
        error_type = UsageError if self.exit_code == 2 else TidelensError
        return error_type(escaped(self.failure or ""))


class ChildReporter:
    """The child's end of the pipe; without a descriptor it is false and sends nothing."""

    def __init__(self, descriptor: int | None) -> None:
        self._descriptor = descriptor

    def __bool__(self) -> bool:
        return self._descriptor is not None

    def send(self, report: ChildReport) -> None:
        """Write the report. This never blocks, since a pipe holds more than a child ever sends."""
        if self._descriptor is not None:
            with contextlib.suppress(OSError):  # The parent is gone, and this child ends soon.
                os.write(self._descriptor, orjson.dumps(asdict(report)) + b"\n")


class ChildReports:
    """The parent's end of the pipe: iterating over it ends when the child does."""

    def __init__(self, reader: asyncio.StreamReader, transport: asyncio.BaseTransport) -> None:
        self._reader = reader
        self._transport = transport

    @classmethod
    @contextlib.asynccontextmanager
    async def opened(cls) -> "AsyncIterator[tuple[ChildReports, int]]":
        """Yield the reports, and a descriptor for a child; the context closes the latter."""
        read_end, write_end = os.pipe()
        try:
            reader = asyncio.StreamReader()
            transport, _ = await asyncio.get_running_loop().connect_read_pipe(
                lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(read_end, "rb", 0)
            )
            try:
                yield cls(reader, transport), write_end
            except BaseException:
                transport.close()
                raise
        finally:
            os.close(write_end)

    async def __aiter__(self) -> AsyncIterator[ChildReport]:
        with contextlib.suppress(ValueError):  # A line beyond the limit is not a report.
            while line := await self._reader.readline():
                with contextlib.suppress(orjson.JSONDecodeError, TypeError):
                    yield ChildReport(**orjson.loads(line))

    def close(self) -> None:
        self._transport.close()
