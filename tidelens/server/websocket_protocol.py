"""A WebSocket on one connection: uvicorn's protocol, with bounds on endless messages.

uvicorn answers every ping at once, even if the client does not read the answers: a client that sent
pings for 15 s and read nothing cost 270 MB. RFC 6455 (5.5.3) allows a bound: while a client is
behind with reading, only its latest ping is answered, once there is room again.
"""

from typing import Any, cast

from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.datastructures import Headers
from websockets.frames import CloseCode, Frame
from websockets.http11 import Response
from websockets.protocol import State

from tidelens.server.admission import ClientConnection, ConnectionLimiter, ConnectionPhase
from tidelens.server.error_answers import FAILED, STOPPING, Refusal, as_response
from tidelens.server.transfer_pace import SendProgress

# Each fragment of a message costs more memory than its bytes.
FRAGMENTS_MAX = 1024
# Bytes that are parsed in one turn of the loop at most: 64 KiB (11,000 empty pings) took 41 ms.
_READ_BYTES = 16 * 1024


class LiveProtocol(WebSocketsSansIOProtocol):
    """The protocol of a connection that was upgraded to a WebSocket."""

    def __init__(self, limiter: ConnectionLimiter, **given: Any) -> None:
        super().__init__(**given)
        self._limiter = limiter
        self._connection: ClientConnection | None = None
        limits = limiter.limits
        self._unsent = SendProgress(limits.send_timeout_s, limits.bytes_per_s_min)
        # The answer to the latest ping, which waits while the client does not read.
        self._pong = b""

    def take_over(self, connection: ClientConnection) -> None:
        """Continue an admitted connection in place of the HTTP protocol."""
        connection.protocol = self
        self._connection = connection
        self.transport.max_size = _READ_BYTES  # type: ignore[attr-defined]

    def connection_lost(self, exc: Exception | None) -> None:
        if self._connection is not None:
            self._limiter.forget(self._connection)
        super().connection_lost(exc)
        break_transport_cycle(self.transport)

    def resume_writing(self) -> None:
        self._unsent.emptied()
        super().resume_writing()
        if self._pong and not self.close_sent:
            self.transport.write(self._pong)
        self._pong = b""

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        connection = self._connection
        if connection is None or self.transport.is_closing():
            return
        unfinished = len(self.conn.reader.buffer) + sum(map(len, self.frames))
        if not unfinished:
            if connection.phase is ConnectionPhase.RECEIVING:
                self._limiter.set_phase(connection, ConnectionPhase.WORKING)
        elif connection.phase is ConnectionPhase.WORKING:
            self._limiter.set_phase(connection, ConnectionPhase.RECEIVING)
        connection.pace.moved(len(data))
        self._limiter.count_body_bytes(connection, unfinished)

    def handle_cont(self, event: Frame) -> None:
        super().handle_cont(event)
        if len(self.frames) > FRAGMENTS_MAX:
            self._fail(CloseCode.MESSAGE_TOO_BIG, f"limit {FRAGMENTS_MAX} fragments of a message")

    def handle_ping(self) -> None:
        # All pings that arrived together are parsed before one is handled: answer the last of them.
        answers = self.conn.data_to_send()
        if self.close_sent:
            return
        if self.writable.is_set() or self.conn.state is not State.OPEN:
            self.transport.write(b"".join(answers))
        elif answers:
            self._pong = answers[-1]

    def shutdown(self) -> None:
        """Close with code 1012, or answer 503 before the handshake ends, since the server stops."""
        if self.transport.is_closing() or self.close_sent:
            self.transport.close()
        elif self.handshake_complete:
            self.stop_keepalive()
            self.queue.put_nowait({"type": "websocket.disconnect", "code": 1012})
            self._fail(CloseCode.SERVICE_RESTART, "the server stops")
        else:
            self.queue.put_nowait({"type": "websocket.disconnect", "code": 1006})
            self._deny(STOPPING)

    stop = shutdown
    unanswered = False

    def send_500_response(self) -> None:
        """Answer 500 if the application failed before it accepted the client."""
        self._deny(FAILED)

    def _deny(self, refusal: Refusal) -> None:
        if self.initial_response is not None or self.handshake_complete:
            return
        response = as_response(refusal)
        headers = Headers(response.headers.items())
        body = cast(bytes, response.body)
        self.conn.send_response(Response(refusal.status, "Refused", headers, body))
        self.transport.write(b"".join(self.conn.data_to_send()))
        self.handshake_complete = self.close_sent = self.disconnected = True
        self.transport.close()

    def refuse(self, refusal: Refusal) -> None:
        """Close with code 1013 and the reason, so that the client tries again later."""
        self._fail(CloseCode.TRY_AGAIN_LATER, refusal.message)

    def check(self, now: float) -> None:
        """Close the connection if something has taken too long; this runs about every second."""
        assert self._connection is not None
        limits = self._limiter.limits
        if self._unsent.stuck(self.transport.get_write_buffer_size(), now):
            self.transport.abort()
        elif self.transport.is_closing():
            # The last bytes may take any time, as long as some of them move.
            return
        elif self._connection.phase is ConnectionPhase.RECEIVING:
            if self.read_paused:
                self._connection.pace.start(now)
            elif self._connection.pace.too_slow(now):
                limit = f"limit {limits.body_timeout_s:g} s for {limits.next_bytes}"
                reason = f"body_timeout_s: {limit}"
                self._fail(CloseCode.POLICY_VIOLATION, reason)

    def _fail(self, code: CloseCode, reason: str) -> None:
        if self.close_sent or self.transport.is_closing():
            return
        self.conn.fail(code, reason[:120])
        self.frames = []
        self.transport.write(b"".join(self.conn.data_to_send()))
        self.close_sent = True
        self.transport.close()


def break_transport_cycle(transport: object) -> None:
    """Break the reference cycle of a closed asyncio transport, which holds one of its own methods.

    Cycles stay in memory until a full garbage collection, which is rare here
    (tidelens/process/gc_pauses.py); half-open connections that are opened again and again would
    leave gigabytes until then.
    """
    vars(transport).pop("_read_ready_cb", None)
