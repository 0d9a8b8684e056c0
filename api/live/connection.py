"""What may happen on one live connection, and in which order. No I/O.

A subscription is OPENING (its query is being prepared, or its cursor waited for), then LIVE, then
ENDED; a connection is OPEN, then CLOSED. A client's wrong step is a RejectedRequest, told to the
client, and the connection goes on; a wrong step of ours raises WrongStep, saying what was expected
and what came.
"""

import enum
import hashlib
from collections.abc import Sequence
from typing import Any

import orjson

from api.http.bodies import count_values, may_hold_values, require_values_max
from api.live.top.ranked_item import RankedItem, RankedItemReader
from contracts.errors import RejectedRequest
from contracts.filters.warnings import FilterWarning
from contracts.settings import Settings
from contracts.wire.as_of import AsOf
from contracts.wire.client_messages import Ping, Query, Subscribe, Unsubscribe
from contracts.wire.cursor import Cursor, list_digest
from contracts.wire.delta import list_changes
from contracts.wire.message_json import wire_warnings
from contracts.wire.parser import parse_client_message
from contracts.wrong_step import WrongStep, require_state

ServerMessage = dict[str, Any]
Message = Subscribe | Unsubscribe | Ping

# RFC 6455, section 7.4.1, and 1012 and 1013 of the IANA registry.
NORMAL_CLOSURE = 1000
UNSUPPORTED_DATA = 1003
TOO_BIG = 1009
SERVICE_RESTART = 1012
TRY_AGAIN_LATER = 1013


class SubscriptionState(enum.Enum):
    OPENING = "opening"
    LIVE = "live"
    ENDED = "ended"


class ConnectionState(enum.Enum):
    OPEN = "open"
    CLOSED = "closed"


class MustClose(Exception):
    """The frame is such that the connection must close, with this code."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason


class Subscription:
    """One named subscription: which messages follow from the list that a search found.

    Compared by identity: a name may be taken again after its subscription ended. Raises
    RejectedRequest for a cursor that is not one of this query.
    """

    def __init__(self, message: Subscribe, digest: str | None = None) -> None:
        self.name = message.sub
        self.mode = message.mode
        self.throttle_s = message.throttle_ms / 1000
        self._min_change = message.min_change
        self._query: Query | None = message.query
        self.state = SubscriptionState.OPENING
        # Equal for those that ask the same.
        self.query_digest = digest or query_digest(message)
        # What the client holds: when resuming, a list of which we only know the digest.
        self.cursor = Cursor.decode(message.cursor) if message.cursor is not None else None
        # Sent with the first snapshot: what its filter asks for that no item had.
        self.warnings: Sequence[FilterWarning] = ()
        self._ranked: Sequence[RankedItem] = []
        self._reader = RankedItemReader(message.query.include)
        if self.cursor is not None and self.cursor.query != self.query_digest:
            raise RejectedRequest(
                "invalid_cursor", "cursor: it belongs to another query", field="cursor"
            )

    def asked(self) -> Query:
        """The query, once: a picture in it may be large, and must not stay for ever."""
        query, self._query = self._query, None
        if query is None:
            raise WrongStep(f"subscription {self.name!r}: its query was taken before")
        return query

    def is_ahead_of(self, as_of: AsOf) -> bool:
        """Whether the client would go back in time with a list of that state."""
        held = None if self.cursor is None else self.cursor.as_of
        if held is None or self.state is not SubscriptionState.OPENING:
            return False
        return _reset_reason(held, as_of) is None and not as_of.covers(held)

    def found(self, ranked: Sequence[RankedItem], as_of: AsOf) -> list[ServerMessage]:
        """What to send, now that the exact list at `as_of` is this; makes it LIVE."""
        self._require(SubscriptionState.OPENING, SubscriptionState.LIVE)
        resuming = self.state is SubscriptionState.OPENING
        self.state = SubscriptionState.LIVE
        held, before = self.cursor, self._ranked
        digest = list_digest([(i.id, score, i.partition, i.offset) for score, i in ranked])
        cursor = Cursor(as_of, self.query_digest, digest)
        if held is None:
            messages = [self._snapshot(ranked, cursor)]
        elif reason := _reset_reason(held.as_of, as_of):
            messages = [self.reset(reason), self._snapshot(ranked, cursor)]
        elif held.hits == cursor.hits:
            # Nothing is said when nothing changed: then the cursor that was sent still holds.
            if not resuming:
                return []
            messages = [{"type": "resumed", "sub": self.name, "cursor": cursor.encode()}]
        elif resuming:
            messages = [self._snapshot(ranked, cursor)]
        else:
            delta = {
                "type": "delta",
                "sub": self.name,
                "changes": list_changes(before, ranked, self._reader),
            }
            messages = [{**delta, "cursor": cursor.encode()}]
        self.cursor, self._ranked = cursor, ranked
        return messages

    def suppresses(self, ranked: Sequence[RankedItem]) -> bool:
        """Whether the change to this list is too small to be sent (`min_change`)."""
        if not self._min_change or self.state is not SubscriptionState.LIVE:
            return False
        held = {item.id: score for score, item in self._ranked}
        return held.keys() == {item.id for _, item in ranked} and all(
            abs(score - held[item.id]) < self._min_change for score, item in ranked
        )

    def followed(self, now: AsOf) -> list[ServerMessage]:
        """Mode matches: what to send before the first match; makes it LIVE."""
        self._require(SubscriptionState.OPENING)
        self.state = SubscriptionState.LIVE
        if self.cursor is None:
            return [self._at("resumed", now)]
        reason = _reset_reason(self.cursor.as_of, now)
        if reason is not None:
            return [self.reset(reason), self._at("resumed", now)]
        return [self._at("resumed", self.cursor.as_of)]

    def matched(self, hits: Sequence[Any], told: AsOf) -> ServerMessage:
        """Mode matches: these, with which everything up to `told` has been told."""
        return {**self._at("match", told), "hits": list(hits)}

    def lost(self, reason: str, now: AsOf) -> list[ServerMessage]:
        """Mode matches: it goes on from `now`, and what was between is not to be had."""
        return [self.reset(reason), self._at("resumed", now)]

    def progress(self, told: AsOf) -> ServerMessage | None:
        """Mode matches: everything up to `told` has been told; None where that is known."""
        if self.cursor is not None and self.cursor.as_of == told:
            return None
        return self._at("progress", told)

    def _at(self, kind: str, state: AsOf) -> ServerMessage:
        """A message of mode matches, whose cursor has no list."""
        self._require(SubscriptionState.LIVE)
        self.cursor = Cursor(state, self.query_digest, "")
        return {"type": kind, "sub": self.name, "cursor": self.cursor.encode()}

    def reset(self, reason: str) -> ServerMessage:
        """The list and the cursor that the client holds are worth nothing any more."""
        return {"type": "reset", "sub": self.name, "reason": reason}

    def ended(self) -> None:
        self._require(SubscriptionState.OPENING, SubscriptionState.LIVE)
        self.state = SubscriptionState.ENDED

    def _require(self, *expected: SubscriptionState) -> None:
        require_state(f"subscription {self.name!r}", self.state, *expected)

    def _snapshot(self, ranked: Sequence[RankedItem], cursor: Cursor) -> ServerMessage:
        warnings, self.warnings = self.warnings, ()
        return {
            "type": "snapshot",
            "sub": self.name,
            "hits": [self._reader.wire(one, rank) for rank, one in enumerate(ranked, start=1)],
            "cursor": cursor.encode(),
            **wire_warnings(warnings),
        }


def query_digest(message: Subscribe) -> str:
    """Equal for subscriptions that ask the same; how long to wait is not part of the question."""
    asked = message.query.model_dump(exclude={"wait_for", "timeout_s", "exact"})
    raw = orjson.dumps([message.mode, asked], option=orjson.OPT_SORT_KEYS)
    return hashlib.blake2b(raw, digest_size=12).hexdigest()


def space_changed(before: str, now: str) -> str:
    """The reason of a reset when another space answers."""
    return f"space_changed: from {before} to {now}"


def _reset_reason(held: AsOf, now: AsOf) -> str | None:
    """Why a list held at `held` says nothing about `now`, or None."""
    if held.space != now.space:
        return space_changed(held.space, now.space)
    if held.epoch != now.epoch:
        return "epoch_changed: the log was made anew"
    return None


class LiveConnection:
    """The subscriptions of one client, and its messages checked against them."""

    def __init__(self, settings: Settings) -> None:
        self._subscriptions_max = settings.subscriptions_max
        self._frame_bytes_max = settings.frame_bytes_max
        self._values_max = settings.body_values_max
        self.state = ConnectionState.OPEN
        self.subscriptions: dict[str, Subscription] = {}

    def read(self, *, text: str | None, data: bytes | None) -> Subscription | Unsubscribe | Ping:
        """One frame: what is to be done. A Subscription is new, in state OPENING.

        Raises as `measured` does, and RejectedRequest for a bad message.
        """
        return self.take(parse_client_message(self.measured(text=text, data=data)))

    def measured(self, *, text: str | None, data: bytes | None) -> str:
        """Return the frame's text, if it may be parsed.

        Raises Refused for a frame that ends the connection, RejectedRequest for too many values.
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

    def take(
        self, message: Message, digest: str | None = None
    ) -> Subscription | Unsubscribe | Ping:
        """Return what a message asks to do. Raises RejectedRequest for a wrong step.

        `digest` is that of its query, if it is known.
        """
        if isinstance(message, Subscribe):
            return self.subscribe(message, digest)
        if isinstance(message, Unsubscribe) and message.sub not in self.subscriptions:
            raise RejectedRequest(
                "unknown_sub", f"sub: no subscription {message.sub!r}", field="sub"
            )
        return message

    def subscribe(self, message: Subscribe, digest: str | None = None) -> Subscription:
        """A new subscription, OPENING. Raises RejectedRequest."""
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
            # Before it is digested: an invalid filter may be nested deeper than orjson writes.
            message.query.parse_filter()
        subscription = Subscription(message, digest)
        self.subscriptions[message.sub] = subscription
        return subscription

    def end(self, subscription: Subscription) -> None:
        """The subscription is over, for either side's reasons."""
        subscription.ended()
        del self.subscriptions[subscription.name]

    def close(self) -> list[Subscription]:
        """The connection is over; returns the subscriptions that ended with it."""
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
    """The `sub` that a refused message names, so that its error can name it too."""
    try:
        message = orjson.loads(text)
    except orjson.JSONDecodeError:
        return None
    sub = message.get("sub") if isinstance(message, dict) else None
    return sub if isinstance(sub, str) else None
