"""The states of an encoder's ownership, and the steps that lead from one to the next.

An encoder joins its group, which assigns partitions to it. A session serves one assignment until
the group rebalances, or until the session fails and the encoder leaves the group to join again.

    | state      | step      | next state | what happens in the step                           |
    |------------|-----------|------------|----------------------------------------------------|
    | OUT        | JOIN      | WAITING    | a membership of the group is started               |
    | OUT        | LEAVE     | LEAVING    | there is nothing to leave, but a close is complete |
    | WAITING    | REBALANCE | REBALANCED | the group has assigned partitions, or none         |
    | WAITING    | LEAVE     | LEAVING    | the membership is closed                           |
    | REBALANCED | REBALANCE | REBALANCED | a newer assignment replaces one that nobody served |
    | REBALANCED | IDLE      | WAITING    | the assignment is empty, so no session is opened   |
    | REBALANCED | OPEN      | OPENING    | a session fences the former owners                 |
    | REBALANCED | LEAVE     | LEAVING    | the membership is closed                           |
    | OPENING    | REBALANCE | REBALANCED | the session that is being opened is abandoned      |
    | OPENING    | SERVE     | SERVING    | the session is at its start offsets                |
    | OPENING    | FAIL      | WAITING    | the session could not be opened                    |
    | OPENING    | LEAVE     | LEAVING    | the session that is being opened is abandoned      |
    | SERVING    | REBALANCE | REBALANCED | the session ends: its leases can commit no more    |
    | SERVING    | LEAVE     | LEAVING    | the session ends, and the membership is closed     |
    | LEAVING    | LEAVE     | LEAVING    | a leave that was cancelled is completed            |
    | LEAVING    | LEFT      | OUT        | the membership and its sessions are closed         |

`SERVING` is the only state with a session that claims and commits records. A membership that was
left still reports rebalances while it closes; its owner ignores them.
"""

import asyncio
import contextlib
from collections.abc import Mapping
from enum import Enum, auto

from contracts.wrong_step import WrongStep


class OwnershipState(Enum):
    """The states of an ownership; the table above says what each of them allows."""

    OUT = auto()
    WAITING = auto()
    REBALANCED = auto()
    OPENING = auto()
    SERVING = auto()
    LEAVING = auto()


class OwnershipStep(Enum):
    """The steps that change the state of an ownership."""

    JOIN = auto()
    REBALANCE = auto()
    IDLE = auto()
    OPEN = auto()
    SERVE = auto()
    FAIL = auto()
    LEAVE = auto()
    LEFT = auto()


NEXT_STATE: Mapping[tuple[OwnershipState, OwnershipStep], OwnershipState] = {
    (OwnershipState.OUT, OwnershipStep.JOIN): OwnershipState.WAITING,
    (OwnershipState.OUT, OwnershipStep.LEAVE): OwnershipState.LEAVING,
    (OwnershipState.WAITING, OwnershipStep.REBALANCE): OwnershipState.REBALANCED,
    (OwnershipState.WAITING, OwnershipStep.LEAVE): OwnershipState.LEAVING,
    (OwnershipState.REBALANCED, OwnershipStep.REBALANCE): OwnershipState.REBALANCED,
    (OwnershipState.REBALANCED, OwnershipStep.IDLE): OwnershipState.WAITING,
    (OwnershipState.REBALANCED, OwnershipStep.OPEN): OwnershipState.OPENING,
    (OwnershipState.REBALANCED, OwnershipStep.LEAVE): OwnershipState.LEAVING,
    (OwnershipState.OPENING, OwnershipStep.REBALANCE): OwnershipState.REBALANCED,
    (OwnershipState.OPENING, OwnershipStep.SERVE): OwnershipState.SERVING,
    (OwnershipState.OPENING, OwnershipStep.FAIL): OwnershipState.WAITING,
    (OwnershipState.OPENING, OwnershipStep.LEAVE): OwnershipState.LEAVING,
    (OwnershipState.SERVING, OwnershipStep.REBALANCE): OwnershipState.REBALANCED,
    (OwnershipState.SERVING, OwnershipStep.LEAVE): OwnershipState.LEAVING,
    (OwnershipState.LEAVING, OwnershipStep.LEAVE): OwnershipState.LEAVING,
    (OwnershipState.LEAVING, OwnershipStep.LEFT): OwnershipState.OUT,
}


class OwnershipStates:
    """The current state of one ownership; it begins outside the group."""

    def __init__(self) -> None:
        self._state = OwnershipState.OUT
        self._rebalanced = asyncio.Event()

    @property
    def state(self) -> OwnershipState:
        return self._state

    def take(self, step: OwnershipStep) -> None:
        """Move to the next state. Raises WrongStep if the current state does not allow the step."""
        following = NEXT_STATE.get((self._state, step))
        if following is None:
            allowed = " or ".join(one.name for state, one in NEXT_STATE if state is self._state)
            raise WrongStep(f"ownership is {self._state.name}: want {allowed}, got {step.name}")
        self._state = following
        if following is OwnershipState.REBALANCED:
            self._rebalanced.set()
        else:
            self._rebalanced.clear()

    async def wait_for_rebalance(self, timeout_s: float) -> None:
        """Return once the state is REBALANCED, or after `timeout_s`."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._rebalanced.wait()
