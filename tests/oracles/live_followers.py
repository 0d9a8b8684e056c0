"""The client of a live subscription, which checks every message against docs/live.md.

A follower applies messages as they come, and fails at once on one that no state of the log could
explain. A message that only the log can prove becomes a claim, which is judged once everything
below its cursor was read.
"""

import asyncio
import json
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

from contracts.events.record import Positions
from contracts.wire.cursor import Cursor, wire_list_digest
from contracts.wire.delta import WireHit, apply_changes
from tests.oracles.live_lists import History, ItemRef, Query, Violation, items_asked

Message = Mapping[str, Any]

# The cursor stays good, so the client asks again.
_RETRIED = frozenset({"not_ready", "timed_out"})
_GONE = frozenset({"item_not_found", "query_item_gone"})
# For a claim that names no offsets: the record that proves it was already seen by a server.
_PROOF_S = 60.0
_SHOWN = 3


class Claim(ABC):
    """A statement of a message, to be compared with the log."""

    @abstractmethod
    async def judge(self, history: History) -> None:
        """Wait until enough of the log was read, and compare. Raises Violation."""


@dataclass(frozen=True)
class ListClaim(Claim):
    """The follower's list is this one at this cursor."""

    context: str
    query: Query
    cursor: Cursor
    hits: Sequence[WireHit]

    async def judge(self, history: History) -> None:
        positions = history.positions_of(self.cursor.as_of)
        await history.reach(positions)
        check_list(self.context, self.query, positions, self.hits, history)
        if self.cursor.list_digest != wire_list_digest(self.hits):
            raise Violation(f"{self.context}: the cursor's digest is of another list")


@dataclass(frozen=True)
class GoneClaim(Claim):
    """One of the items that the query asks by is missing, in a state at or after the cursor."""

    context: str
    items: Sequence[ItemRef]
    cursor: Cursor | None

    async def judge(self, history: History) -> None:
        since = None if self.cursor is None else history.positions_of(self.cursor.as_of)
        try:
            async with asyncio.timeout(_PROOF_S):
                while not any(history.was_missing(item, since) for item in self.items):
                    await asyncio.sleep(0.1)
        except TimeoutError:
            raise Violation(f"{self.context}: its items were never missing since {since}") from None


class Follower(ABC):
    """One subscription, which may move from connection to connection; a subclass for each mode.

    Claims are put into `claims`; `counts` counts messages and the answers to a subscribe. `twin`
    has the same query on another connection.
    """

    mode: str

    def __init__(
        self, name: str, query: Query, claims: "asyncio.Queue[Claim]", counts: Counter[str]
    ) -> None:
        self.name = name
        self.query = query
        self.claims = claims
        self.counts = counts
        self.twin: Self | None = None
        self.cursor: Cursor | None = None
        self.is_live = False
        self.is_resuming = False
        self.is_gone = False
        self._sub = ""
        self._opened = 0
        self._replica: str | None = None
        self._cursor_from: str | None = None
        self._cursor_sent: str | None = None

    def opening(self, replica: str, *, afresh: bool) -> Message:
        """Return the message that subscribes; `afresh` leaves the cursor out, as if it was lost."""
        if afresh:
            self.forget()
        self._opened += 1
        # Each time it has another name: a late message for the one before is then not taken.
        self._sub = f"{self.name}.{self._opened}"
        self.is_live, self._replica = False, replica
        self.is_resuming = self.cursor is not None
        return {
            "op": "subscribe",
            "sub": self._sub,
            "mode": self.mode,
            "query": self.query,
            "cursor": self._cursor_sent,
        }

    def closing(self) -> Message:
        """Return the message that unsubscribes; later messages for it are not taken."""
        sub, self._sub, self.is_live = self._sub, "", False
        return {"op": "unsubscribe", "sub": sub}

    def left(self) -> None:
        """Note that the connection is gone."""
        self._sub, self.is_live, self._replica = "", False, None

    def forget(self) -> None:
        self.cursor = self._cursor_sent = None

    def copy_twin(self) -> None:
        """Continue at the twin's cursor, like a client that takes over on another machine."""
        if self.twin is not None and self.twin.cursor is not None:
            self.cursor, self._cursor_sent = self.twin.cursor, self.twin._cursor_sent
            self._cursor_from = self.twin._cursor_from
            self.copied(self.twin)

    @abstractmethod
    def copied(self, twin: Self) -> None:
        """Take over what the twin holds at its cursor."""

    def is_mine(self, message: Message) -> bool:
        return message.get("sub") == self._sub

    def take(self, message: Message) -> bool:
        """Take one message of the server; return False if it has to be opened again."""
        kind = message["type"]
        self.counts[f"messages: {kind}"] += 1
        if kind == "error":
            self._refused(message)
            return False
        if kind == "reset":
            raise Violation(f"{self._context(message)}: neither space nor log was replaced")
        context = self._context(message)
        self._move(context, message)
        self.applied(context, message)
        if not self.is_live:
            self._count_answer(kind)
        self.is_live, self.is_gone = True, False
        self._cursor_from = self._replica
        return True

    @abstractmethod
    def applied(self, context: str, message: Message) -> None:
        """Apply a message with a cursor, now `self.cursor`, and claim what follows from it."""

    @abstractmethod
    def check_end(self, history: History, end: Positions) -> None:
        """Check, once all is quiet, the result against the whole log. Raises Violation."""

    def _move(self, context: str, message: Message) -> None:
        """Take over the message's cursor, which must not be of an earlier state."""
        cursor, before = Cursor.decode(message["cursor"]), self.cursor
        if before is not None:
            now, then = cursor.as_of, before.as_of
            if (now.space, now.epoch) != (then.space, then.epoch):
                raise Violation(f"{context}: another space or epoch without a reset, from {then}")
            if not now.covers(then):
                raise Violation(f"{context}: back in time, from {then}")
        self.cursor, self._cursor_sent = cursor, message["cursor"]

    def _refused(self, message: Message) -> None:
        code = message["code"]
        self.counts[f"errors: {code}"] += 1
        context, items = self._context(message), items_asked(self.query)
        if code in _GONE and items:
            if (code == "query_item_gone") is not self.is_live:
                raise Violation(f"{context}: not what is said where live is {self.is_live}")
            self.claims.put_nowait(GoneClaim(context, items, self.cursor))
            self.is_gone = True
        elif code not in _RETRIED or self.is_live:
            raise Violation(f"{context}: refused")
        self._sub, self.is_live = "", False

    def _count_answer(self, kind: str) -> None:
        if not self.is_resuming:
            self.counts["opened without a cursor"] += 1
        elif self._cursor_from == self._replica:
            self.counts[f"resumed on the same replica: {kind}"] += 1
        else:
            self.counts[f"resumed on the other replica: {kind}"] += 1

    def _context(self, message: Message) -> str:
        """Return which follower got which message, with the cursor in words."""
        raw, query = message.get("cursor"), json.dumps(self.query)
        at = "" if raw is None else f" at {Cursor.decode(raw).as_of.offsets}"
        said = {name: value for name, value in message.items() if name in ("code", "reason")}
        what = f"{message['type']}{said or ''}{at} from {self._replica}"
        return f"{self.name} ({self.mode} of {query}): {what}"


class TopFollower(Follower):
    """A subscription in mode `top`, whose list equals an exact search."""

    mode = "top"
    hits: Sequence[WireHit] = ()

    def copied(self, twin: "TopFollower") -> None:
        self.hits = twin.hits

    def applied(self, context: str, message: Message) -> None:
        match message["type"]:
            case "snapshot" if not self.is_live:
                if self.is_resuming and message["hits"] == self.hits:
                    raise Violation(f"{context}: a snapshot of the list that the cursor was of")
                self.hits = message["hits"]
            case "delta" if self.is_live:
                if not message["changes"]:
                    raise Violation(f"{context}: a delta without changes")
                self.hits = apply_changes(self.hits, message["changes"])
            case "resumed" if not self.is_live and self.is_resuming:
                pass
            case _:
                raise Violation(f"{context}: not what is said where live is {self.is_live}")
        assert self.cursor is not None
        self.claims.put_nowait(ListClaim(context, self.query, self.cursor, self.hits))

    def check_end(self, history: History, end: Positions) -> None:
        context = f"{self.name} (top of {json.dumps(self.query)}): after quiet"
        if self.is_gone:
            if history.list_at(self.query, end) is not None:
                raise Violation(f"{context}: still without its item")
        elif not self.is_live:
            raise Violation(f"{context}: not answered")
        else:
            check_list(context, self.query, end, self.hits, history)


def check_list(
    context: str, query: Query, positions: Positions, hits: Sequence[WireHit], history: History
) -> None:
    """Raise Violation if `hits` is not the exact list at `positions`."""
    want = history.list_at(query, positions)
    if want is None:
        raise Violation(f"{context}: an item that it asks by is missing in that state")
    if want == list(hits):
        return
    ranks = range(max(len(want), len(hits)))
    differing = [n for n in ranks if want[n : n + 1] != list(hits[n : n + 1])]
    where = {str(tuple(partition)): offset for partition, offset in positions.items()}
    lines = [
        f"{context}",
        f"state {where}",
        f"  want {[hit['id'] for hit in want]}",
        f"  got  {[hit['id'] for hit in hits]}",
    ]
    for n in differing[:_SHOWN]:
        lines.append(f"  rank {n + 1}: want {want[n] if n < len(want) else None}")
        lines.append(f"  rank {n + 1}: got  {hits[n] if n < len(hits) else None}")
    raise Violation("\n".join([*lines, f"  {len(differing)} ranks differ"]))
