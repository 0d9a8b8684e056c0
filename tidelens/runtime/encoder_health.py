"""An encoder's health: its event loop writes it, and the thread of its metrics port reads it."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from time import monotonic
from typing import Any, Literal

from contracts.ports.ownership import Ownership

_EVERY_S = 1.0
# Loading a model holds the interpreter for seconds at a time; a loop that stands still for this
# long will not go on by itself.
STALLED_S = 60.0


@dataclass(frozen=True, slots=True)
class GroupMembership:
    """An encoder's membership in its group; a member may own no partitions, for now or ever."""

    is_member: bool = False
    partitions: int = 0


class EncoderHealth:
    """The health of an encoder: whether it is alive and ready, or why not.

    Attributes are replaced whole and never changed in place, so that another thread may read them.
    `has_broker` says whether the address of the broker is known; `up` sends it to its encoders.
    `now` is a monotonic clock in seconds.
    """

    def __init__(self, *, has_broker: bool = True, now: Callable[[], float] = monotonic) -> None:
        self.has_broker = has_broker
        self.space: str | None = None
        self.broker: Literal["unknown", "reachable", "unreachable"] = "unknown"
        self.membership = GroupMembership()
        self._ownership: Ownership | None = None
        self._now = now
        self._seen = now()

    def watch(self, ownership: Ownership) -> None:
        """Report the membership of `ownership` from now on."""
        self._ownership = ownership

    async def run(self) -> None:
        """Update the state every second until cancelled, which also shows that the loop runs."""
        while True:
            self.update()
            await asyncio.sleep(_EVERY_S)

    def update(self) -> None:
        """Record that the loop runs, and what the encoder owns."""
        self._seen = self._now()
        ownership = self._ownership
        if ownership is not None:
            self.membership = GroupMembership(ownership.is_member, len(ownership.owned_partitions))

    def stalled(self) -> str | None:
        """Return a sentence about an event loop that stands still for STALLED_S, otherwise None."""
        still_s = self._now() - self._seen
        if still_s < STALLED_S:
            return None
        return f"the event loop has stood still for {still_s:.0f} s"

    def reason(self) -> str | None:
        """Return why the encoder is not ready, or None; a member without partitions is ready."""
        if (stalled := self.stalled()) is not None:
            return stalled
        if not self.has_broker:
            return "the address of the broker is not known yet"
        if self.space is None:
            return "the model is not loaded yet"
        if self.broker == "unknown":
            return "the broker has not answered yet"
        if self.broker == "unreachable":
            return "the broker does not answer"
        if not self.membership.is_member:
            return "the group of encoders has not been joined yet"
        return None

    def readiness(self) -> dict[str, Any]:
        """Return the body of /readyz."""
        reason = self.reason()
        return {
            "ready": reason is None,
            "reason": reason,
            "space": self.space,
            "broker": self.broker,
            "group_member": self.membership.is_member,
            "partitions_owned": self.membership.partitions,
        }
