"""HTTP on one connection: uvicorn's protocol on httptools, with the bounds that it lacks.

uvicorn has no time limit for a header, a body or an answer that the client does not read. It does
not bound the size of a header, pipelined requests, or the bodies of all connections together.
"""

import asyncio
from collections import deque
from typing import Any

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from tidelens.server.admission import (
    UNCOUNTED_BYTES,
    ClientConnection,
    ConnectionLimiter,
    ConnectionPhase,
)
from tidelens.server.error_answers import STOPPING, Refusal, as_bytes, too_late
from tidelens.server.http10 import close_delimited
from tidelens.server.lingering import Lingering
from tidelens.server.pipelining import PausedFlow, PipelineBuffer
from tidelens.server.protocol_upgrade import without_upgrade
from tidelens.server.request_size import RequestSize, too_many_headers
from tidelens.server.transfer_pace import SendProgress
from tidelens.server.websocket_protocol import LiveProtocol, break_transport_cycle

_READ_BYTES = 64 * 1024


class _RequestRefused(Exception):
    """The end of parsing a refused request; the protocol has the refusal."""


class HttpProtocol(HttpToolsProtocol):
    """The HTTP protocol of one connection, which the limiter counts from its first moment."""

    def __init__(self, limiter: ConnectionLimiter, **given: Any) -> None:
        super().__init__(**given)
        self._limiter = limiter
        self._connection: ClientConnection
        limits = limiter.limits
        self._unsent = SendProgress(limits.send_timeout_s, limits.bytes_per_s_min)
        # Requests whose answers are not complete, the oldest first.
        self._open: deque[RequestResponseCycle] = deque()
        self._in_body = self._ended_here = False
        self._size = RequestSize()
        # Bytes of the bodies of open requests.
        self._open_body_bytes = 0
        self._refused = False
        self._lingering = Lingering()
        self._parse_refusal: Refusal | None = None
        self._other_protocol = False
        self._ahead = PipelineBuffer()
        self._answering: asyncio.Task[None] | None = None

    def admit(self, address: str) -> None:
        """Count the connection, for which the limiter has made room, before it is set up."""
        self._connection = self._limiter.new_connection(address, self)
        self._limiter.enter(self._connection)

    def forget(self) -> None:
        """Stop counting a connection that is closed."""
        self._limiter.forget(self._connection)

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.flow: PausedFlow = PausedFlow(transport)
        # A quarter of asyncio's own size: shorter turns of the loop while many bodies are read.
        transport.max_size = _READ_BYTES  # type: ignore[attr-defined]
        if self._refused:
            transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self.forget()
        self._disconnect()
        super().connection_lost(exc)
        break_transport_cycle(self.transport)

    def resume_writing(self) -> None:
        self._unsent.emptied()
        super().resume_writing()

    def data_received(self, data: bytes) -> None:
        if self._refused:
            self._discard(len(data))
            return
        self._ahead.add(data)
        self._parse_ahead()

    def _parse_ahead(self) -> None:
        """Parse what was read, and pause reading while too many requests wait for their answers."""
        while data := self._ahead.step(len(self._open)):
            self._parse(data)
        self.flow.held = bool(self._ahead)
        if self._ahead:
            self.flow.pause_reading()
            self._limiter.count_body_bytes(
                self._connection, self._open_body_bytes + len(self._ahead)
            )

    def _parse(self, data: bytes) -> None:
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self._upgrade(data[upgrade.args[0] :] + self._ahead.rest())
        except httptools.HttpParserError:
            self._refuse_broken()
        else:
            # The size of a piece bounds what follows a whole request in the same piece.
            if not self._ended_here:
                self._unfinished(len(data))
            self._ended_here = False

    def _discard(self, count: int) -> None:
        """Discard what was in transit when the client was refused; pause reading after that."""
        if self._lingering.discard(count):
            self.flow.pause_reading()

    def _unfinished(self, count: int) -> None:
        """Count bytes of an unfinished header or body, and refuse one that is too large."""
        if self._in_body:
            refusal = self._size.add_framed(count)
            if refusal is None and self._connection.phase is ConnectionPhase.WORKING:
                self._limiter.set_phase(self._connection, ConnectionPhase.RECEIVING)
        else:
            if not self._size.head_bytes:
                self._connection.since = self._limiter.now()
            refusal = self._size.add_head(count, self.headers)
        if refusal is not None:
            self.refuse(refusal)

    def _upgrade(self, rest: bytes) -> None:
        if self._should_upgrade():
            self.handle_websocket_upgrade()
        else:
            self._stay(rest)

    def handle_websocket_upgrade(self) -> None:
        super().handle_websocket_upgrade()
        live = self.transport.get_protocol()
        assert isinstance(live, LiveProtocol)
        live.take_over(self._connection)

    def _stay(self, rest: bytes) -> None:
        """Parse the request again without its offer of an upgrade, then the bytes after it."""
        self._other_protocol = False
        before = self.parser
        head = without_upgrade(
            before.get_method(), self.url, before.get_http_version(), self.headers
        )
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)
        self.data_received(head + rest)

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        if cycle.scope["http_version"] != "1.1":
            app = close_delimited(app, cycle)
        # Do what uvicorn does, and keep the task, since a refused request must not go on.
        self._answering = task = self.loop.create_task(cycle.run_asgi(app))
        task.add_done_callback(self.tasks.discard)
        self.tasks.add(task)

    # The parser's callbacks

    def on_header(self, name: bytes, value: bytes) -> None:
        # The parser keeps blanks behind a value, which do not belong to it (RFC 9110, 5.5).
        super().on_header(name, value.strip(b" \t"))

    def on_headers_complete(self) -> None:
        if self._refused:
            raise _RequestRefused
        if refusal := too_many_headers(self.headers):
            self._break(refusal)
        self._size.start_body()
        upgrade = self.parser.should_upgrade()
        if upgrade and not self._should_upgrade():
            if self.parser.get_method() == b"CONNECT":
                self._break(Refusal(400, "invalid_request", "CONNECT: not served", "method", 0))
            self._other_protocol = True
            return
        super().on_headers_complete()
        self._limiter.set_phase(self._connection, ConnectionPhase.WORKING)
        if not upgrade:
            self._in_body = True
            self._open.append(self.cycle)
            # The parser appends trailers to the headers, which are no longer needed.
            self.headers = []

    def on_body(self, body: bytes) -> None:
        if self._refused:
            return
        super().on_body(body)
        count = len(body)
        self._size.add_body(count)
        if self._connection.phase is ConnectionPhase.RECEIVING:
            self._connection.pace.moved(count)
        if not self.cycle.response_complete:
            self._open_body_bytes += count
            if self._open_body_bytes > UNCOUNTED_BYTES:
                self._limiter.count_body_bytes(self._connection, self._open_body_bytes)

    def on_message_complete(self) -> None:
        if self._refused or self._other_protocol:
            return
        super().on_message_complete()
        self._in_body = False
        self._ended_here = True
        if self._connection.phase is ConnectionPhase.RECEIVING:
            self._limiter.set_phase(
                self._connection, ConnectionPhase.WORKING if self._open else ConnectionPhase.WAITING
            )

    def on_response_complete(self) -> None:
        """Do what uvicorn does, without a timer for each idle connection: `check` ends those."""
        self._open.popleft()
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            return
        if self._open_body_bytes:
            # Requests that were not begun still have their whole bodies in memory.
            self._open_body_bytes = sum(len(cycle.body) for cycle in self._open)
        if self._ahead:
            self._parse_ahead()
        self._limiter.count_body_bytes(self._connection, self._open_body_bytes + len(self._ahead))
        self.flow.resume_reading()
        if self._refused:
            return
        if self.pipeline:
            self._start_asgi_task(*self.pipeline.pop())
        elif not self._in_body:
            self._limiter.set_phase(self._connection, ConnectionPhase.WAITING)

    def _break(self, why: Refusal) -> None:
        """Make the parser stop at the refused request; `_refuse_broken` then sends `why`."""
        self._parse_refusal = why
        raise _RequestRefused

    def _refuse_broken(self) -> None:
        message = "Invalid HTTP request received."
        if self._parse_refusal is None:
            self.logger.warning(message)
        self.refuse(self._parse_refusal or Refusal(400, "invalid_request", message, "request", 0))

    def refuse(self, refusal: Refusal) -> None:
        """Send the refusal if no other answer was begun, and close the connection soon."""
        if self._refused:
            return
        self._refused = True
        if self.transport is None:
            self.forget()
            return
        # Every other refusal concerns the last request, and few clients may stay to read it.
        stopping = refusal is STOPPING
        if self._open:
            answerable = self.unanswered and (stopping or len(self._open) == 1)
        else:
            idle = self._connection.phase is ConnectionPhase.WAITING and not self._size.head_bytes
            answerable = refusal.status != 503 or not idle
        self._disconnect()
        may_stay = self._limiter.let_linger(self._connection) or stopping
        if answerable and may_stay and not self.transport.is_closing():
            self.transport.write(as_bytes(refusal))
            self.transport.write_eof()
            # What is still in transit is read and discarded, or the answer might be lost.
            self.flow.resume_reading()
        else:
            self._limiter.leave(self._connection)
            sent = not self.transport.get_write_buffer_size()
            (self.transport.close if sent else self.transport.abort)()

    @property
    def unanswered(self) -> bool:
        """True if a request waits for the first byte of its answer."""
        return bool(self._open) and not self._open[0].response_started

    def shutdown(self) -> None:
        """Close the connection if the server waits for its client; requests in progress may end."""
        if self.unanswered and self._connection.phase is ConnectionPhase.WORKING:
            self.cycle.keep_alive = False
        else:
            self.stop()

    def stop(self) -> None:
        """Refuse requests that have no answer yet; an answer that was begun is sent to its end."""
        if self._refused:
            return
        if self._open and not self.unanswered:
            for cycle in self._open:
                cycle.keep_alive = False
        elif self._open or self._size.head_bytes:
            if self._answering is not None:
                self._answering.cancel()
            nothing_arrives = self._connection.phase is ConnectionPhase.WORKING
            self.refuse(STOPPING)
            if nothing_arrives:
                self.transport.close()
        else:
            self.transport.close()

    def _disconnect(self) -> None:
        """Mark every open request as disconnected: no client waits for its answer."""
        for cycle in self._open:
            cycle.disconnected = True
            cycle.body = bytearray()
            cycle.message_event.set()
        self._open.clear()
        self.pipeline.clear()
        self._ahead.rest()
        self.flow.held = False
        self.flow.resume_writing()

    def check(self, now: float) -> None:
        """Close the connection if something has taken too long; this runs about every second."""
        if self.transport is None:
            return
        if self._refused:
            if self._lingering.is_over(now):
                self.transport.abort()
        elif self._unsent.stuck(self.transport.get_write_buffer_size(), now):
            self._refused = True
            self._disconnect()
            self.transport.abort()
        elif self.transport.is_closing():
            # The rest of the last answer may take any time, as long as some of it moves.
            return
        elif self._connection.phase is ConnectionPhase.WAITING:
            self._check_head(now)
        elif self._connection.phase is ConnectionPhase.RECEIVING:
            self._check_body(now)

    def _check_head(self, now: float) -> None:
        limits, waited_s = self._limiter.limits, now - self._connection.since
        if self._size.head_bytes:
            if waited_s > limits.header_timeout_s:
                what = "a whole header"
                self.refuse(too_late("header_timeout_s", limits.header_timeout_s, what))
        elif waited_s > (limits.idle_timeout_s if self.cycle else limits.header_timeout_s):
            self._refused = True
            self.transport.close()

    def _check_body(self, now: float) -> None:
        pace, limits = self._connection.pace, self._limiter.limits
        if self.flow.read_paused:
            pace.start(now)
        elif pace.too_slow(now):
            self.refuse(too_late("body_timeout_s", limits.body_timeout_s, limits.next_bytes))
