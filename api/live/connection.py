"""One live connection: its subscriptions, and the checks of its client's messages. No I/O.

| State | Step                                     | Next   |
|-------|------------------------------------------|--------|
| OPEN  | `parse_frame`, `require_parsable`        | OPEN   |
| OPEN  | `close`: ends all subscriptions          | CLOSED |

A client's wrong step is a RejectedRequest, which is sent to the client, and the connection goes on.
A step of the server that is not in the table is a defect and raises WrongStep.
"""

import enum

import orjson

from api.http.bodies import count_values, may_hold_values, require_values_max
from api.live.subscription import Subscription, query_digest
from contracts.errors import RejectedRequest
from contracts.settings import Settings
from contracts.wire.client_messages import Ping, Subscribe, Unsubscribe
from contracts.wire.parser import parse_client_message
from contracts.wrong_step import require_state

Message = Subscribe | Unsubscribe | Ping

# RFC 6455, section 7.4.1; 1012 and 1013 are in the IANA registry of close codes.
NORMAL_CLOSURE = 1000
UNSUPPORTED_DATA = 1003
TOO_BIG = 1009
INTERNAL_ERROR = 1011
SERVICE_RESTART = 1012
TRY_AGAIN_LATER = 1013


class ConnectionState(enum.Enum):
    """The state of a connection."""

    OPEN = "open"
    CLOSED = "closed"


class MustClose(Exception):
    """The error for a frame after which the connection must be closed, with this close code."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason


class LiveConnection:
    """One client's connection: its subscriptions by name, and the checks of its messages."""

    def __init__(self, settings: Settings) -> None:
        self._subscriptions_max = settings.subscriptions_max
        self._frame_bytes_max = settings.frame_bytes_max
        self._values_max = settings.body_values_max
        self.state = ConnectionState.OPEN
        self.subscriptions: dict[str, Subscription] = {}

    def parse_frame(
        self, *, text: str | None, data: bytes | None
    ) -> Subscription | Unsubscribe | Ping:
        """Return what a frame asks to do. A Subscription is new, in state OPENING.

        Raises MustClose, and RejectedRequest for a bad message.
        """
        return self.accept_message(
            parse_client_message(self.require_parsable(text=text, data=data))
        )

    def require_parsable(self, *, text: str | None, data: bytes | None) -> str:
        """Return the frame's text, if it may be parsed.

        Raises MustClose for a frame that ends the connection, RejectedRequest for too many values.
        """
        self._require_open()
        if text is None:
            size = len(data or b"")
            raise MustClose(UNSUPPORTED_DATA, f"want a text frame, got {size} bytes of binary")
        # A character takes at most 4 bytes in UTF-8: only long texts are encoded to be measured.
        if 4 * len(text) > self._frame_bytes_max:
            size = len(text.encode())
            if size > self._frame_bytes_max:
                raise MustClose(TOO_BIG, f"frame: limit {self._frame_bytes_max} bytes, got {size}")
        if may_hold_values(self._values_max, len(text)):
            require_values_max(count_values(text), self._values_max, "frame")
        return text

    def accept_message(
        self, message: Message, digest: str | None = None
    ) -> Subscription | Unsubscribe | Ping:
        """Return what a message asks to do. Raises RejectedRequest for a wrong step.

        `digest` is the digest of the query, if it has been computed already.
        """
        if isinstance(message, Subscribe):
            return self.subscribe(message, digest)
        if isinstance(message, Unsubscribe) and message.sub not in self.subscriptions:
            raise RejectedRequest(
                "unknown_sub", f"sub: no subscription {message.sub!r}", field="sub"
            )
        return message

    def subscribe(self, message: Subscribe, digest: str | None = None) -> Subscription:
        """Return a new subscription, in state OPENING.

        Raises RejectedRequest for a name that is taken, too many subscriptions, an `offset`, an
        invalid filter, or the cursor of another query.
        """
        if message.sub in self.subscriptions:
            raise RejectedRequest(
                "duplicate_sub", f"sub: {message.sub!r} is taken on this connection", field="sub"
            )
        if len(self.subscriptions) >= self._subscriptions_max:
            raise RejectedRequest(
                "too_many",
                f"subscriptions_max: limit {self._subscriptions_max} on one connection",
                status=429,
                field="sub",
                limit=self._subscriptions_max,
            )
        if message.query.offset:
            raise RejectedRequest(
                "invalid_request",
                f"query.offset: a live list starts at the top, got {message.query.offset}",
                field="query.offset",
                limit=0,
                value=message.query.offset,
            )
        if message.query.filter is not None:
            # Before the digest: an invalid filter may be nested deeper than orjson writes.
            message.query.parse_filter()
        subscription = Subscription(message, digest)
        self.subscriptions[message.sub] = subscription
        return subscription

    def end(self, subscription: Subscription) -> None:
        """End a subscription, at the request of the client or of the server."""
        subscription.mark_ended()
        del self.subscriptions[subscription.name]

    def close(self) -> list[Subscription]:
        """End the connection, and return the subscriptions that ended with it."""
        self._require_open()
        self.state = ConnectionState.CLOSED
        ended = list(self.subscriptions.values())
        for subscription in ended:
            self.end(subscription)
        return ended

    def _require_open(self) -> None:
        require_state("connection", self.state, ConnectionState.OPEN)


def parse_large_message(text: str) -> tuple[Message, str | None]:
    """Parse a large message, in any thread; return it with the digest of its query.

    Raises RejectedRequest.
    """
    message = parse_client_message(text)
    if not isinstance(message, Subscribe):
        return message, None
    message.query.parse_filter()
    return message, query_digest(message)


def sub_of(text: str) -> str | None:
    """Return the `sub` that a refused message names, or None if it names none."""
    try:
        message = orjson.loads(text)
    except orjson.JSONDecodeError:
        return None
    sub = message.get("sub") if isinstance(message, dict) else None
    return sub if isinstance(sub, str) else None
