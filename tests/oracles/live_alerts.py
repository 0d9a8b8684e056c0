"""The oracle of a live subscription in mode `matches`: its messages are checked against the log.

Each hit is a version that the log holds at or behind the cursor that this connection began at, and
comes once. With every cursor, the newest version of each item below it has been sent, if it matches
and is not before the position where the subscription began.
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
    """This version matches, and is not before `since`."""

    context: str
    query: Query
    since: Cursor
    hit: WireHit

    async def judge(self, history: History) -> None:
        try:
            async with asyncio.timeout(_PROOF_S):
                while (found := history.match(self.query, version_of(self.hit))) is None:
                    await asyncio.sleep(0.1)
        except TimeoutError:
            raise Violation(f"{self.context}: no such version, or no match: {self.hit}") from None
        offset, want = found
        if want != self.hit:
            raise Violation(f"{self.context}: want {want}\n got {self.hit}")
        partition = history.partition_of(self.query, self.hit["id"])
        start = history.positions_of(self.since.as_of)[partition]
        if offset < start:
            raise Violation(
                f"{self.context}: from before its cursor: {offset} < {start}: {self.hit}"
            )


@dataclass(frozen=True)
class CompleteClaim(Claim):
    """Each match between `since` and this cursor came in the message `number` or an earlier one."""

    context: str
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
                raise Violation(f"{self.context}: never sent {version}, matched since {start}")


class MatchesFollower(Follower):
    """A subscription in mode `matches`, which gets each version that matches once."""

    mode = "matches"

    def __init__(
        self, name: str, query: Query, claims: "asyncio.Queue[Claim]", counts: Counter[str]
    ) -> None:
        super().__init__(name, query, claims, counts)
        # Where the subscription began, and this connection.
        self._start: Cursor | None = None
        self._here: Cursor | None = None
        # The message that each version came in first; and the versions that this connection sent.
        self._messages: dict[Version, int] = {}
        self._number = 0
        self._sent_here: set[Version] = set()

    def forget(self) -> None:
        super().forget()
        self._start, self._messages = None, {}

    def copied(self, twin: "MatchesFollower") -> None:
        self._start, self._number = twin._start, twin._number
        self._messages = dict(twin._messages)

    def applied(self, context: str, message: Message) -> None:
        assert self.cursor is not None
        self._number += 1
        match message["type"]:
            case "resumed" if not self.is_live:
                self._sent_here = set()
                self._here = self.cursor
                self._start = self._start or self.cursor
            case "match" if self.is_live and message.get("hits"):
                for hit in message["hits"]:
                    self._take_hit(context, hit)
            case "progress" if self.is_live:
                pass
            case _:
                raise Violation(f"{context}: not what is said where live is {self.is_live}")
        assert self._start is not None
        claim = (context, self.query, self._start, self.cursor, self._messages, self._number)
        self.claims.put_nowait(CompleteClaim(*claim))

    def _take_hit(self, context: str, hit: WireHit) -> None:
        version = version_of(hit)
        if version in self._sent_here:
            raise Violation(f"{context}: sent twice on one connection: {hit}")
        self._sent_here.add(version)
        self._messages.setdefault(version, self._number)
        assert self._here is not None
        self.claims.put_nowait(HitClaim(context, self.query, self._here, hit))
        self.counts["matches sent"] += 1

    def check_end(self, history: History, end: Positions) -> None:
        context = f"{self.name} (matches of {json.dumps(self.query)}): after quiet"
        if not self.is_live or self._start is None:
            raise Violation(f"{context}: not answered")
        start = history.positions_of(self._start.as_of)
        missed = set(history.matching(self.query, start, end)) - self._messages.keys()
        if missed:
            raise Violation(f"{context}: never sent {sorted(missed)}, matched since {start}")
