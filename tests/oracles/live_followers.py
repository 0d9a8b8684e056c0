"""A live subscription as its client sees it, and what has to be true of each message.

A follower keeps to docs/live.md: it applies messages as they come, and says at once what no state
of the log could excuse. What can only be told from the log is a claim, which is judged once
everything below its cursor was read.
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
    """What a message says, to be held against the log."""

    @abstractmethod
    async def judge(self, history: History) -> None:
        """Wait until the log tells. Raises Violation."""


@dataclass(frozen=True)
class ListClaim(Claim):
    """At this cursor, the follower's list is this one."""

    told: str
    query: Query
    cursor: Cursor
    hits: Sequence[WireHit]

    async def judge(self, history: History) -> None:
        positions = history.positions_of(self.cursor.as_of)
        await history.reach(positions)
        check_list(self.told, self.query, positions, self.hits, history)
        if self.cursor.hits != wire_list_digest(self.hits):
            raise Violation(f"{self.told}: the cursor's digest is of another list")


@dataclass(frozen=True)
class GoneClaim(Claim):
    """One of the items that the query asks by is missing, in a state at or after the cursor."""

    told: str
    items: Sequence[ItemRef]
    cursor: Cursor | None

    async def judge(self, history: History) -> None:
        since = None if self.cursor is None else history.positions_of(self.cursor.as_of)
        try:
            async with asyncio.timeout(_PROOF_S):
                while not any(history.was_missing(item, since) for item in self.items):
                    await asyncio.sleep(0.1)
        except TimeoutError:
            raise Violation(f"{self.told}: its items were never missing since {since}") from None


class Follower(ABC):
    """One subscription, on whichever connection it is. Kinds differ in what their messages mean.

    `claims` is where claims go, `counts` counts messages and the answers to a subscribe. `twin`
    asks the same elsewhere.
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

    def opening(self, replica: str, *, anew: bool) -> Message:
        """The message that subscribes; `anew`: without the cursor, as a client that lost it."""
        if anew:
            self.forget()
        self._opened += 1
        # A name of its own each time: what was on its way for the one before is none of its.
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
        """The message that ends it; what still comes for it is not taken."""
        sub, self._sub, self.is_live = self._sub, "", False
        return {"op": "unsubscribe", "sub": sub}

    def left(self) -> None:
        """The connection is gone."""
        self._sub, self.is_live, self._replica = "", False, None

    def forget(self) -> None:
        self.cursor = self._cursor_sent = None

    def copy_twin(self) -> None:
        """Go on from where the twin is just now, as who takes it over on another machine."""
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
        """One message of the server; False: it has to be opened again."""
        kind = message["type"]
        self.counts[f"messages: {kind}"] += 1
        if kind == "error":
            self._refused(message)
            return False
        if kind == "reset":
            raise Violation(f"{self._told(message)}: neither space nor log was made anew")
        told = self._told(message)
        self._move(told, message)
        self.applied(told, message)
        if not self.is_live:
            self._count_answer(kind)
        self.is_live, self.is_gone = True, False
        self._cursor_from = self._replica
        return True

    @abstractmethod
    def applied(self, told: str, message: Message) -> None:
        """Apply a message with a cursor, now `self.cursor`, and claim what follows from it."""

    @abstractmethod
    def check_end(self, history: History, end: Positions) -> None:
        """After quiet: it has all that the whole log tells. Raises Violation."""

    def _move(self, told: str, message: Message) -> None:
        """Take over the message's cursor, which must not be of an earlier state."""
        cursor, before = Cursor.decode(message["cursor"]), self.cursor
        if before is not None:
            now, then = cursor.as_of, before.as_of
            if (now.space, now.epoch) != (then.space, then.epoch):
                raise Violation(f"{told}: another space or epoch without a reset, from {then}")
            if not now.covers(then):
                raise Violation(f"{told}: back in time, from {then}")
        self.cursor, self._cursor_sent = cursor, message["cursor"]

    def _refused(self, message: Message) -> None:
        code = message["code"]
        self.counts[f"errors: {code}"] += 1
        told, items = self._told(message), items_asked(self.query)
        if code in _GONE and items:
            if (code == "query_item_gone") is not self.is_live:
                raise Violation(f"{told}: not what is said where live is {self.is_live}")
            self.claims.put_nowait(GoneClaim(told, items, self.cursor))
            self.is_gone = True
        elif code not in _RETRIED or self.is_live:
            raise Violation(f"{told}: refused")
        self._sub, self.is_live = "", False

    def _count_answer(self, kind: str) -> None:
        if not self.is_resuming:
            self.counts["opened without a cursor"] += 1
        elif self._cursor_from == self._replica:
            self.counts[f"resumed on the same replica: {kind}"] += 1
        else:
            self.counts[f"resumed on the other replica: {kind}"] += 1

    def _told(self, message: Message) -> str:
        """Who was told what, with the cursor in words."""
        raw, query = message.get("cursor"), json.dumps(self.query)
        at = "" if raw is None else f" at {Cursor.decode(raw).as_of.offsets}"
        said = {name: value for name, value in message.items() if name in ("code", "reason")}
        what = f"{message['type']}{said or ''}{at} from {self._replica}"
        return f"{self.name} ({self.mode} of {query}): {what}"


class TopFollower(Follower):
    """Mode `top`: a list that stands for an exact search."""

    mode = "top"
    hits: Sequence[WireHit] = ()

    def copied(self, twin: "TopFollower") -> None:
        self.hits = twin.hits

    def applied(self, told: str, message: Message) -> None:
        match message["type"]:
            case "snapshot" if not self.is_live:
                if self.is_resuming and message["hits"] == self.hits:
                    raise Violation(f"{told}: a snapshot of the list that the cursor was of")
                self.hits = message["hits"]
            case "delta" if self.is_live:
                if not message["changes"]:
                    raise Violation(f"{told}: a delta without changes")
                self.hits = apply_changes(self.hits, message["changes"])
            case "resumed" if not self.is_live and self.is_resuming:
                pass
            case _:
                raise Violation(f"{told}: not what is said where live is {self.is_live}")
        assert self.cursor is not None
        self.claims.put_nowait(ListClaim(told, self.query, self.cursor, self.hits))

    def check_end(self, history: History, end: Positions) -> None:
        told = f"{self.name} (top of {json.dumps(self.query)}): after quiet"
        if self.is_gone:
            if history.list_at(self.query, end) is not None:
                raise Violation(f"{told}: still without its item")
        elif not self.is_live:
            raise Violation(f"{told}: not answered")
        else:
            check_list(told, self.query, end, self.hits, history)


def check_list(
    told: str, query: Query, positions: Positions, hits: Sequence[WireHit], history: History
) -> None:
    """Raises Violation where `hits` is not the exact list there."""
    want = history.list_at(query, positions)
    if want is None:
        raise Violation(f"{told}: an item that it asks by is missing in that state")
    if want == list(hits):
        return
    places = range(max(len(want), len(hits)))
    differing = [n for n in places if want[n : n + 1] != list(hits[n : n + 1])]
    where = {str(tuple(partition)): offset for partition, offset in positions.items()}
    lines = [
        f"{told}",
        f"state {where}",
        f"  want {[hit['id'] for hit in want]}",
        f"  got  {[hit['id'] for hit in hits]}",
    ]
    for n in differing[:_SHOWN]:
        lines.append(f"  rank {n + 1}: want {want[n] if n < len(want) else None}")
        lines.append(f"  rank {n + 1}: got  {hits[n] if n < len(hits) else None}")
    raise Violation("\n".join([*lines, f"  {len(differing)} ranks differ"]))
