"""One live subscription: its state, and the messages that follow from its query's list. No I/O.

| State   | Step                                                                 | Next    |
|---------|----------------------------------------------------------------------|---------|
| OPENING | `list_messages`, `alert_opened`: the query is prepared, and the index | LIVE   |
|         | has reached the client's cursor                                      |         |
| LIVE    | `list_messages`, `match_message`, `progress_message`                 | LIVE    |
| OPENING, LIVE | `mark_ended`: the client or the server ends it                 | ENDED   |

A step that is not in the table is a defect and raises WrongStep.
"""

import enum
import hashlib
from collections.abc import Sequence
from typing import Any

import orjson

from api.live.top.ranked_item import RankedItem, RankedItemReader
from contracts.errors import RejectedRequest
from contracts.filters.warnings import FilterWarning
from contracts.wire.as_of import AsOf
from contracts.wire.client_messages import Query, Subscribe
from contracts.wire.cursor import Cursor, list_digest
from contracts.wire.delta import list_changes
from contracts.wire.message_json import wire_warnings
from contracts.wrong_step import WrongStep, require_state

ServerMessage = dict[str, Any]


class SubscriptionState(enum.Enum):
    """The state of a subscription."""

    OPENING = "opening"
    LIVE = "live"
    ENDED = "ended"


class Subscription:
    """One named subscription, and the messages that keep its client's list up to date.

    Subscriptions are compared by identity: a name is free again after its subscription has ended.
    `digest` is the digest of the query, if it has been computed already. The constructor raises
    RejectedRequest for a cursor of another query.
    """

    def __init__(self, message: Subscribe, digest: str | None = None) -> None:
        self.name = message.sub
        self.mode = message.mode
        self.throttle_s = message.throttle_ms / 1000
        self._min_change = message.min_change
        self._query: Query | None = message.query
        self.state = SubscriptionState.OPENING
        # Equal for subscriptions that ask for the same.
        self.query_digest = digest or query_digest(message)
        # The list that the client has: when it resumes, only the digest of that list is known.
        self.cursor = Cursor.decode(message.cursor) if message.cursor is not None else None
        # Conditions of the filter that no item can fulfil; they are sent with the first snapshot.
        self.warnings: Sequence[FilterWarning] = ()
        self._ranked: Sequence[RankedItem] = []
        self._reader = RankedItemReader(message.query.include)
        if self.cursor is not None and self.cursor.query_digest != self.query_digest:
            raise RejectedRequest(
                "invalid_cursor", "cursor: it belongs to another query", field="cursor"
            )

    @property
    def is_live(self) -> bool:
        """Return whether the client has a list or a position, which messages keep up to date."""
        return self.state is SubscriptionState.LIVE

    @property
    def has_ended(self) -> bool:
        """Return whether it has ended, so that nothing more may be sent under its name."""
        return self.state is SubscriptionState.ENDED

    def take_query(self) -> Query:
        """Return the query, and forget it, since a picture in it may be large.

        A second call raises WrongStep.
        """
        query, self._query = self._query, None
        if query is None:
            raise WrongStep(f"subscription {self.name!r}: its query was taken before")
        return query

    def is_ahead_of(self, as_of: AsOf) -> bool:
        """Return whether the client's cursor is ahead of `as_of`, so that it must wait.

        A list of the state `as_of` would take the client back in time.
        """
        held = None if self.cursor is None else self.cursor.as_of
        if held is None or self.state is not SubscriptionState.OPENING:
            return False
        return _reset_reason(held, as_of) is None and not as_of.covers(held)

    def list_messages(self, ranked: Sequence[RankedItem], as_of: AsOf) -> list[ServerMessage]:
        """Return the messages that give the client the exact list at `as_of`; makes it LIVE."""
        self._require(SubscriptionState.OPENING, SubscriptionState.LIVE)
        resuming = self.state is SubscriptionState.OPENING
        self.state = SubscriptionState.LIVE
        held, before = self.cursor, self._ranked
        digest = list_digest([(i.id, score, i.partition, i.offset) for score, i in ranked])
        cursor = Cursor(as_of, self.query_digest, digest)
        if held is None:
            messages = [self._snapshot(ranked, cursor)]
        elif reason := _reset_reason(held.as_of, as_of):
            messages = [self.reset_message(reason), self._snapshot(ranked, cursor)]
        elif held.list_digest == cursor.list_digest:
            # The list has not changed, so the cursor that was sent is still good.
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
        """Return whether the change to this list is too small to be sent (`min_change`)."""
        if not self._min_change or self.state is not SubscriptionState.LIVE:
            return False
        held = {item.id: score for score, item in self._ranked}
        return held.keys() == {item.id for _, item in ranked} and all(
            abs(score - held[item.id]) < self._min_change for score, item in ranked
        )

    def alert_opened(self, now: AsOf) -> list[ServerMessage]:
        """Return the messages before the first match of mode `matches`; makes it LIVE."""
        self._require(SubscriptionState.OPENING)
        self.state = SubscriptionState.LIVE
        if self.cursor is None:
            return [self._at("resumed", now)]
        reason = _reset_reason(self.cursor.as_of, now)
        if reason is not None:
            return [self.reset_message(reason), self._at("resumed", now)]
        return [self._at("resumed", self.cursor.as_of)]

    def match_message(self, hits: Sequence[Any], delivered: AsOf) -> ServerMessage:
        """Return a message with matches; once it is sent, all matches up to `delivered` are."""
        return {**self._at("match", delivered), "hits": list(hits)}

    def alert_reset_messages(self, reason: str, now: AsOf) -> list[ServerMessage]:
        """Return the messages after which matches continue from `now`; earlier ones are missing."""
        return [self.reset_message(reason), self._at("resumed", now)]

    def progress_message(self, delivered: AsOf) -> ServerMessage | None:
        """Return a message with a cursor at `delivered`, or None if the client has that cursor."""
        if self.cursor is not None and self.cursor.as_of == delivered:
            return None
        return self._at("progress", delivered)

    def _at(self, message_type: str, state: AsOf) -> ServerMessage:
        """Return a message of mode `matches`, whose cursor has no list."""
        self._require(SubscriptionState.LIVE)
        self.cursor = Cursor(state, self.query_digest, "")
        return {"type": message_type, "sub": self.name, "cursor": self.cursor.encode()}

    def reset_message(self, reason: str) -> ServerMessage:
        """Return the message that makes the client drop its list and its cursor."""
        return {"type": "reset", "sub": self.name, "reason": reason}

    def mark_ended(self) -> None:
        """Take the step to ENDED."""
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
    """Return a digest that is equal for subscriptions that ask for the same.

    The times that a client waits are not part of what it asks for.
    """
    asked = message.query.model_dump(exclude={"wait_for", "timeout_s", "exact"})
    raw = orjson.dumps([message.mode, asked], option=orjson.OPT_SORT_KEYS)
    return hashlib.blake2b(raw, digest_size=12).hexdigest()


def space_changed(before: str, now: str) -> str:
    """Return the reason of a reset when another space answers."""
    return f"space_changed: from {before} to {now}"


def _reset_reason(held: AsOf, now: AsOf) -> str | None:
    """Return why a client cannot go from the state `held` to `now` by changes, or None."""
    if held.space != now.space:
        return space_changed(held.space, now.space)
    if held.epoch != now.epoch:
        return "epoch_changed: the log was created again"
    return None
