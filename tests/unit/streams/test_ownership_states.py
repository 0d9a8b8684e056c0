"""The state machine of an encoder's ownership: its table, and the steps that it refuses."""

import re

import pytest

from contracts.wrong_step import WrongStep
from streams.ownership import states
from streams.ownership.states import NEXT_STATE, OwnershipState, OwnershipStates, OwnershipStep

pytestmark = pytest.mark.anyio


def in_state(steps: list[OwnershipStep]) -> OwnershipStates:
    ownership = OwnershipStates()
    for step in steps:
        ownership.take(step)
    return ownership


JOIN, REBALANCE, OPEN, SERVE = (
    OwnershipStep.JOIN,
    OwnershipStep.REBALANCE,
    OwnershipStep.OPEN,
    OwnershipStep.SERVE,
)


def test_the_table_of_the_docstring_is_the_table_of_the_code() -> None:
    rows = re.findall(r"^ *\| ([A-Z]+) +\| ([A-Z]+) +\| ([A-Z]+) +\|", states.__doc__ or "", re.M)
    table = {(state.name, step.name): after.name for (state, step), after in NEXT_STATE.items()}
    assert {(state, step): after for state, step, after in rows} == table
    assert len(rows) == len(table)


def test_every_state_can_be_reached_and_left() -> None:
    assert set(NEXT_STATE.values()) == set(OwnershipState)
    assert {state for state, _ in NEXT_STATE} == set(OwnershipState)


@pytest.mark.parametrize(
    ("steps", "state"),
    [
        ([JOIN, REBALANCE, OPEN, SERVE], OwnershipState.SERVING),
        ([JOIN, REBALANCE, OPEN, SERVE, REBALANCE], OwnershipState.REBALANCED),
        ([JOIN, REBALANCE, OPEN, REBALANCE], OwnershipState.REBALANCED),
        ([JOIN, REBALANCE, OwnershipStep.IDLE], OwnershipState.WAITING),
        ([JOIN, REBALANCE, OPEN, OwnershipStep.FAIL], OwnershipState.WAITING),
        ([OwnershipStep.LEAVE, OwnershipStep.LEAVE, OwnershipStep.LEFT], OwnershipState.OUT),
    ],
)
def test_steps_lead_from_state_to_state(steps: list[OwnershipStep], state: OwnershipState) -> None:
    assert in_state(steps).state is state


def test_a_wrong_step_says_what_was_expected_and_what_came() -> None:
    ownership = in_state([JOIN, REBALANCE, OPEN, REBALANCE])
    expected = r"ownership is REBALANCED: want REBALANCE or IDLE or OPEN or LEAVE, got SERVE"
    with pytest.raises(WrongStep, match=expected):
        ownership.take(SERVE)
    assert ownership.state is OwnershipState.REBALANCED


async def test_a_wait_ends_with_the_rebalance_or_its_time() -> None:
    ownership = in_state([JOIN])
    await ownership.wait_for_rebalance(0.001)
    assert ownership.state is OwnershipState.WAITING
    ownership.take(REBALANCE)
    await ownership.wait_for_rebalance(60)
    ownership.take(OPEN)
    await ownership.wait_for_rebalance(0.001)
    assert ownership.state is OwnershipState.OPENING
