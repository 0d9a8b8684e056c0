"""The rules of a lane: claims are committed in order, batches take what is ready, limits hold."""

import pytest

from consumers.encode_job import EncodeJob
from consumers.lane import ClaimState, EncodeLane, EncodeTask, InflightClaim
from contracts.events.record import Record, TopicPartition
from contracts.ports.ownership import Lease, RecordClaim
from contracts.wrong_step import WrongStep


def record(partition: int, offset: int, value: bytes = b"12345") -> Record:
    return Record("t", partition, offset, 0, b"k%d" % offset, value)


def lane(**limits: int) -> EncodeLane:
    asked = {"batch_max": 3, "ahead_max": 4, "ahead_bytes_max": 100, **limits}
    return EncodeLane("captions", **asked)


def lease(partition: int = 0) -> Lease:
    return Lease(TopicPartition("t", partition), "id")


def add_claim(one: EncodeLane, of: Lease, first: int, count: int) -> InflightClaim:
    records = [record(of.partition.partition, first + n) for n in range(count)]
    jobs = [EncodeJob(each, "captions") for each in records]
    return one.add_claim(RecordClaim(of, records, first + count), jobs)


def finish(inflight: InflightClaim) -> None:
    for _ in inflight.jobs:
        inflight.finish_job()


def test_claims_of_a_partition_land_in_order_and_together() -> None:
    one, of = lane(), lease()
    first, second = add_claim(one, of, 0, 2), add_claim(one, of, 2, 1)
    finish(second)
    assert one.take_committable() == []
    finish(first)
    assert one.take_committable() == [(of, [first, second])]
    assert one.take_committable() == [], "one transaction at a time"
    third = add_claim(one, of, 3, 1)
    finish(third)
    assert one.take_committable() == []
    one.mark_committed(of, [first, second])
    assert one.take_committable() == [(of, [third])]
    one.mark_committed(of, [third])
    assert one.active_leases() == [] and one.inflight_records == 0


def test_headers_count_as_bytes_under_way() -> None:
    one, of = lane(ahead_bytes_max=100), lease()
    inflight = one.add_claim(
        RecordClaim(of, [Record("t", 0, 0, 0, b"k", b"", [("h", b"x" * 100)])], 1), []
    )
    assert not one.has_room
    one.take_committable()
    one.mark_committed(of, [inflight])
    assert one.has_room


def test_partitions_do_not_wait_for_each_other() -> None:
    one, slow, quick = lane(), lease(0), lease(1)
    add_claim(one, slow, 0, 1)
    inflight = add_claim(one, quick, 0, 1)
    finish(inflight)
    assert one.take_committable() == [(quick, [inflight])]


def test_a_partition_with_enough_under_way_is_full_until_it_lands() -> None:
    one, of, other = lane(ahead_max=4), lease(0), lease(1)
    add_claim(one, other, 0, 3)
    inflight = add_claim(one, of, 0, 4)
    assert one.full_partitions() == {of.partition}
    finish(inflight)
    one.mark_committed(*one.take_committable()[0])
    assert one.full_partitions() == set()


def test_a_partition_has_its_share_of_the_bytes() -> None:
    one, of = lane(ahead_bytes_max=48), lease(0)
    inflight = add_claim(one, of, 0, 2)  # 14 bytes: a key of two, a value of five
    assert one.full_partitions(owned=3) == one.full_partitions() == set()
    assert one.full_partitions(owned=4) == one.full_partitions(owned=1_000) == {of.partition}
    finish(inflight)
    one.mark_committed(*one.take_committable()[0])
    assert one.full_partitions(owned=4) == set()
    add_claim(one, of, 2, 2)
    one.drop_leases([of])
    assert one.full_partitions(owned=4) == set()


def test_bytes_are_bounded_over_all_partitions() -> None:
    one, of, other = lane(ahead_bytes_max=25), lease(0), lease(1)
    add_claim(one, of, 0, 2)
    assert one.has_room
    add_claim(one, other, 0, 3)
    assert not one.has_room
    one.drop_leases([other])
    assert one.has_room


def test_a_batch_takes_the_longest_waiting_and_a_full_one_waits_for_more() -> None:
    one, of = lane(), lease()
    inflight = add_claim(one, of, 0, 5)
    tasks = [EncodeTask(job, inflight) for job in inflight.jobs]
    for task in tasks[:2]:
        one.enqueue(task)
    assert one.take_batch(full=True) == []
    for task in tasks[2:]:
        one.enqueue(task)
    assert one.take_batch(full=True) == tasks[:3]
    assert one.take_batch(full=True) == []
    assert one.take_batch(full=False) == tasks[3:]


def test_what_an_ended_lease_had_under_way_is_gone() -> None:
    one, ended, other = lane(), lease(0), lease(1)
    gone, stays = add_claim(one, ended, 0, 1), add_claim(one, other, 0, 1)
    for inflight in (gone, stays):
        one.enqueue(EncodeTask(inflight.jobs[0], inflight))
    finish(gone)
    assert one.take_committable() == [(ended, [gone])]
    one.drop_leases([ended])
    one.mark_committed(ended, [gone])
    assert [task.inflight for task in one.take_batch(full=False)] == [stays]
    assert one.active_leases() == [other]


def test_a_claim_goes_through_its_states() -> None:
    one, of = lane(), lease()
    inflight = add_claim(one, of, 0, 2)
    assert inflight.state is ClaimState.ENCODING
    inflight.finish_job()
    assert inflight.state is ClaimState.ENCODING, "one job is open"
    inflight.finish_job()
    assert inflight.state is ClaimState.DONE
    one.take_committable()
    assert inflight.state is ClaimState.COMMITTING
    one.mark_committed(of, [inflight])
    assert inflight.state is ClaimState.COMMITTED
    with pytest.raises(WrongStep, match="expected an open job, got a claim that is committed"):
        inflight.finish_job()


def test_a_claim_without_jobs_is_done() -> None:
    one, of = lane(), lease()
    inflight = one.add_claim(RecordClaim(of, [], 7), [])
    assert inflight.state is ClaimState.DONE
    assert one.take_committable() == [(of, [inflight])]


@pytest.mark.parametrize("finished", [0, 1, 2])
def test_a_dropped_claim_stays_so_when_its_jobs_finish(finished: int) -> None:
    one, of = lane(), lease()
    inflight = add_claim(one, of, 0, 2)
    for _ in range(finished):
        inflight.finish_job()
    one.drop_leases([of])
    for _ in range(2 - finished):
        inflight.finish_job()
    assert inflight.state is ClaimState.DROPPED
    assert one.take_committable() == []


LEGAL = {
    (ClaimState.ENCODING, ClaimState.DONE),
    (ClaimState.DONE, ClaimState.COMMITTING),
    (ClaimState.COMMITTING, ClaimState.COMMITTED),
    (ClaimState.ENCODING, ClaimState.DROPPED),
    (ClaimState.DONE, ClaimState.DROPPED),
    (ClaimState.COMMITTING, ClaimState.DROPPED),
}
TARGET_STATES = [state for state in ClaimState if state is not ClaimState.ENCODING]


@pytest.mark.parametrize("before", ClaimState)
@pytest.mark.parametrize("after", TARGET_STATES)
def test_a_step_that_is_not_in_the_table_raises(before: ClaimState, after: ClaimState) -> None:
    inflight = add_claim(lane(), lease(), 0, 1)
    inflight.state = before
    if (before, after) in LEGAL:
        inflight.move_to(after)
        assert inflight.state is after
    else:
        with pytest.raises(WrongStep, match=f"becomes {after.name}: .*, got {before.name}$"):
            inflight.move_to(after)


def test_a_commit_out_of_order_raises() -> None:
    one, of = lane(), lease()
    first, second = add_claim(one, of, 0, 1), add_claim(one, of, 1, 1)
    for inflight in (first, second):
        finish(inflight)
    one.take_committable()
    with pytest.raises(WrongStep, match="expected to commit up to 1, got 2"):
        one.mark_committed(of, [second])
