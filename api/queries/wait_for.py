"""Implement `wait_for`: an answer at least as new as a publish token, or an earlier `as_of`.

The index covers a token once it has applied the result of a content record at or after the token's
offset in its partition. A content record that a later one of the same transaction supersedes has no
result. So there is a second condition: once the encoder's committed offset has passed the token,
everything it wrote lies below the embeddings partition's high watermark at that time, and it is
enough to reach that watermark.
"""

import asyncio
from collections.abc import Callable, Sequence
from time import monotonic

import structlog

from api.http.deadline import time_limit
from api.node import Node
from contracts.errors import BrokerUnavailable, RejectedRequest
from contracts.events.record import TopicPartition
from contracts.ports.search import AppliedBatch
from contracts.topics import TARGETS, Target
from contracts.wire.as_of import AsOf
from contracts.wire.client_messages import AsOfMessage, Token
from contracts.wire.message_json import read_as_of

log = structlog.get_logger(__name__)

# Positions also advance past transaction markers, without a batch and so without an event.
_POLL_S = 0.1


class StateWaiter:
    """Waiting for the index of one node to reach a state; all requests share it.

    A request asks the broker every `ask_broker_every_s` seconds. Requests share the committed
    offsets of the encoder that were read less than this time ago.
    """

    def __init__(self, node: Node, *, ask_broker_every_s: float = 0.5) -> None:
        self._node = node
        self._ask_broker_every_s = ask_broker_every_s
        self._moved = asyncio.Event()
        node.feed.listen(self._ring)
        self._committed: dict[TopicPartition, int] = {}
        self._asked_at = -ask_broker_every_s
        self._asking = asyncio.Lock()

    def _ring(self, _: Sequence[AppliedBatch]) -> None:
        # A new event each time: a waiter that took the old one before its check misses none.
        self._moved.set()
        self._moved = asyncio.Event()

    async def wait_for(self, what: Token | AsOfMessage) -> None:
        """Wait until the index covers a token or a state.

        Raises TimedOut, and RejectedRequest for a state that this node can never reach or a record
        that was dead-lettered.
        """
        async with time_limit(self._node.settings.wait_s_max, [], "wait_for: not reached"):
            if isinstance(what, Token):
                await self._token(what)
            else:
                state = read_as_of(what)
                await self.wait_until_covers(self.require_same_log_state(state, "wait_for"))
                # The log may have been replaced meanwhile.
                self.require_same_log_state(state, "wait_for")

    async def wait_until_covers(self, state: AsOf) -> None:
        """Return once the index covers `state`, or follows another log."""
        now = self._node.searcher.as_of
        await self._until(lambda: now().epoch != state.epoch or now().covers(state))

    def require_same_log_state(self, state: AsOf, field: str) -> AsOf:
        """Return `state` if this index can reach it. Raises RejectedRequest if it cannot."""
        now = self._node.searcher.as_of()
        for name, theirs, own in (
            ("space", state.space, now.space),
            ("epoch", state.epoch, now.epoch),
        ):
            if theirs != own:
                raise RejectedRequest(
                    f"other_{name}",
                    f"{field}: {name} {theirs!r} differs from this node's {own!r}",
                    status=409,
                    field=field,
                    limit=own,
                    value=theirs,
                )
        require_shape(state, now, field)
        return state

    async def _token(self, token: Token) -> None:
        target, partition = self._target_and_partition(token)
        progress = self._node.progress
        asked = monotonic()
        watermark: int | None = None

        def passed() -> bool:
            if progress.highest_source(target, partition) >= token.offset:
                return True
            position = self._node.searcher.as_of().offsets[target][partition]
            return watermark is not None and position >= watermark

        while not passed():
            await self._until(passed, until=asked + self._ask_broker_every_s)
            asked = monotonic()
            if watermark is None and not passed():
                watermark = await self._watermark_behind(token, target)
        reason = progress.rejection_reason(target, partition, token.offset)
        if reason is not None:
            raise RejectedRequest(
                "dead_lettered",
                f"wait_for: the record was dead-lettered: {reason}",
                status=422,
                field="wait_for",
                value=reason,
            )

    def _target_and_partition(self, token: Token) -> tuple[Target, int]:
        counts = self._node.searcher.as_of().offsets
        for target in TARGETS:
            if token.topic != self._node.names.content(target):
                continue
            if token.partition >= len(counts[target]):
                break
            return target, token.partition
        raise RejectedRequest(
            "unknown_partition",
            f"wait_for: no content partition {token.topic}-{token.partition} here",
            field="wait_for",
            value=f"{token.topic}-{token.partition}",
        )

    async def _watermark_behind(self, token: Token, target: Target) -> int | None:
        """Return the embeddings' high watermark if the encoder has passed the token.

        Returns None if it has not, or while the broker does not answer.
        """
        names = self._node.names
        embeddings = TopicPartition(names.embeddings(target), token.partition)
        try:
            async with self._asking:
                if monotonic() - self._asked_at >= self._ask_broker_every_s:
                    self._committed = await self._node.log.committed(names.encoder_group)
                    self._asked_at = monotonic()
            content = TopicPartition(token.topic, token.partition)
            if self._committed.get(content, 0) <= token.offset:
                return None
            return (await self._node.log.end_offsets([embeddings]))[embeddings]
        except BrokerUnavailable as error:
            log.warning("wait_for goes on without the broker", error=str(error))
            return None

    async def _until(self, true: Callable[[], bool], *, until: float | None = None) -> None:
        """Return once `true()` holds, which is checked after every batch and every 100 ms.

        Returns at the time `until` (of `monotonic`) at the latest, if it is given.
        """
        while True:
            moved = self._moved
            if true() or (until is not None and monotonic() >= until):
                return
            try:
                async with asyncio.timeout(_POLL_S):
                    await moved.wait()
            except TimeoutError:
                pass


def require_shape(state: AsOf, own: AsOf, field: str) -> None:
    """Raise RejectedRequest unless both states have the same number of partitions."""
    known = {target: len(offsets) for target, offsets in own.offsets.items()}
    if {target: len(offsets) for target, offsets in state.offsets.items()} != known:
        raise RejectedRequest(
            "invalid_request", f"{field}: offsets want {known} partitions", field=field
        )
