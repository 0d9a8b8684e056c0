"""A live subscription in mode `matches` as its client sees it, and what has to be true of it.

Each hit is a version that the log holds, from the cursor that this connection began at on, told
once. With every cursor, the newest version of each item below it has been told, if it matches and
does not stand before where the subscription began.
"""

import asyncio
import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from contracts.events.record import Positions
from contracts.wire.cursor import Cursor
from contracts.wire.delta import WireHit
from tests.oracles.live_followers import Claim, Follower, Message
from tests.oracles.live_lists import History, Query, Violation

# For a hit beyond its message's cursor: the record was already read by a server.
_PROOF_S = 60.0


class Version(NamedTuple):
    """A version of an item, by its source."""

    id: str
    partition: int
    offset: int


def version_of(hit: WireHit) -> Version:
    return Version(hit["id"], hit["source"]["partition"], hit["source"]["offset"])


@dataclass(frozen=True)
class HitClaim(Claim):
    """This version matches, and does not stand before `since`."""

    told: str
    query: Query
    since: Cursor
    hit: WireHit

    async def judge(self, history: History) -> None:
        try:
            async with asyncio.timeout(_PROOF_S):
                while (found := history.match(self.query, version_of(self.hit))) is None:
                    await asyncio.sleep(0.1)
        except TimeoutError:
            raise Violation(f"{self.told}: no such version, or no match: {self.hit}") from None
        offset, want = found
        if want != self.hit:
            raise Violation(f"{self.told}: want {want}\n got {self.hit}")
        start = history.positions_of(self.since.as_of)[history.place(self.query, self.hit["id"])]
        if offset < start:
            raise Violation(f"{self.told}: from before its cursor: {offset} < {start}: {self.hit}")


@dataclass(frozen=True)
class CompleteClaim(Claim):
    """At this cursor, all there was since `since` had been told, as the message of that number."""

    told: str
    query: Query
    since: Cursor
    cursor: Cursor
    messages: Mapping[Version, int]
    number: int

    async def judge(self, history: History) -> None:
        end = history.positions_of(self.cursor.as_of)
        await history.reach(end)
        start = history.positions_of(self.since.as_of)
        for version in history.matching(self.query, start, end):
            if self.messages.get(version, self.number + 1) > self.number:
                raise Violation(f"{self.told}: never told of {version}, matched since {start}")


class MatchesFollower(Follower):
    """Mode `matches`: whatever matches, once."""

    mode = "matches"

    def __init__(
        self, name: str, query: Query, claims: "asyncio.Queue[Claim]", counts: Counter[str]
    ) -> None:
        super().__init__(name, query, claims, counts)
        # Where the subscription began, and this connection.
        self._start: Cursor | None = None
        self._here: Cursor | None = None
        # By which message each version was told first; and which were told on this connection.
        self._messages: dict[Version, int] = {}
        self._number = 0
        self._told_here: set[Version] = set()

    def forget(self) -> None:
        super().forget()
        self._start, self._messages = None, {}

    def copied(self, twin: "MatchesFollower") -> None:
        self._start, self._number = twin._start, twin._number
        self._messages = dict(twin._messages)

    def applied(self, told: str, message: Message) -> None:
        assert self.cursor is not None
        self._number += 1
        match message["type"]:
            case "resumed" if not self.is_live:
                self._told_here = set()
                self._here = self.cursor
                self._start = self._start or self.cursor
            case "match" if self.is_live and message.get("hits"):
                for hit in message["hits"]:
                    self._tell(told, hit)
            case "progress" if self.is_live:
                pass
            case _:
                raise Violation(f"{told}: not what is said where live is {self.is_live}")
        assert self._start is not None
        claim = (told, self.query, self._start, self.cursor, self._messages, self._number)
        self.claims.put_nowait(CompleteClaim(*claim))

    def _tell(self, told: str, hit: WireHit) -> None:
        version = version_of(hit)
        if version in self._told_here:
            raise Violation(f"{told}: told twice on one connection: {hit}")
        self._told_here.add(version)
        self._messages.setdefault(version, self._number)
        assert self._here is not None
        self.claims.put_nowait(HitClaim(told, self.query, self._here, hit))
        self.counts["matches told"] += 1

    def check_end(self, history: History, end: Positions) -> None:
        told = f"{self.name} (matches of {json.dumps(self.query)}): after quiet"
        if not self.is_live or self._start is None:
            raise Violation(f"{told}: not answered")
        start = history.positions_of(self._start.as_of)
        missed = set(history.matching(self.query, start, end)) - self._messages.keys()
        if missed:
            raise Violation(f"{told}: never told of {sorted(missed)}, matched since {start}")
