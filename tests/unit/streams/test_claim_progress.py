"""The claimed and committed positions of a session, and the times at which it was caught up."""

import asyncio

import pytest

from contracts.events.record import TopicPartition
from streams.ownership.caught_up import CaughtUpTimes, now_ms
from streams.ownership.claim_progress import ClaimProgress

pytestmark = pytest.mark.anyio

FIRST, SECOND = TopicPartition("t.images", 0), TopicPartition("t.images", 1)


def test_a_claim_needs_a_position_that_moved() -> None:
    progress = ClaimProgress({FIRST: 5})
    assert not progress.claim(FIRST, 5)
    assert progress.claim(FIRST, 7)
    assert not progress.claim(FIRST, 7)


async def test_a_session_is_drained_once_every_claim_is_committed() -> None:
    progress = ClaimProgress({FIRST: 0, SECOND: 3})
    await progress.wait_until_drained()
    progress.claim(FIRST, 4)
    progress.claim(FIRST, 6)
    progress.claim(SECOND, 9)
    waiting = asyncio.create_task(progress.wait_until_drained())
    progress.commit(FIRST, 6)
    progress.commit(SECOND, 8)
    await asyncio.sleep(0)
    assert not waiting.done()
    progress.commit(SECOND, 9)
    await waiting


@pytest.mark.parametrize(("ago_s", "too_old"), [(None, True), (0, False), (50, False), (70, True)])
def test_deletes_may_be_missed_after_the_retention_of_tombstones(
    ago_s: int | None, too_old: bool
) -> None:
    times = CaughtUpTimes(60)
    if ago_s is not None:
        times.set(FIRST, now_ms() - 1000 * ago_s)
    assert times.is_too_old(FIRST) == too_old
    assert times.get(SECOND) is None
