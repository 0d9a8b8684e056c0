"""What a lane lets go on: claims land in order, batches take what is ready, limits hold."""

from consumers.encode_job import Job
from consumers.lane import EncodeLane, EncodeTask, InflightClaim
from contracts.events.record import Record, TopicPartition
from contracts.ports.ownership import Lease, RecordClaim


def record(partition: int, offset: int, value: bytes = b"12345") -> Record:
    return Record("t", partition, offset, 0, b"k%d" % offset, value)


def lane(**limits: int) -> EncodeLane:
    asked = {"batch_max": 3, "ahead_max": 4, "ahead_bytes_max": 100, **limits}
    return EncodeLane("captions", **asked)


def lease(partition: int = 0) -> Lease:
    return Lease(TopicPartition("t", partition), "id")


def add_claim(one: EncodeLane, of: Lease, first: int, count: int) -> InflightClaim:
    records = [record(of.partition.partition, first + n) for n in range(count)]
    jobs = [Job(each, "captions") for each in records]
    return one.add_claim(RecordClaim(of, records, first + count), jobs)


def test_claims_of_a_partition_land_in_order_and_together() -> None:
    one, of = lane(), lease()
    first, second = add_claim(one, of, 0, 2), add_claim(one, of, 2, 1)
    second.open_jobs = 0
    assert one.take_committable() == []
    first.open_jobs = 0
    assert one.take_committable() == [(of, [first, second])]
    assert one.take_committable() == [], "one transaction at a time"
    third = add_claim(one, of, 3, 1)
    third.open_jobs = 0
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
    inflight.open_jobs = 0
    assert one.take_committable() == [(quick, [inflight])]


def test_a_partition_with_enough_under_way_is_full_until_it_lands() -> None:
    one, of, other = lane(ahead_max=4), lease(0), lease(1)
    add_claim(one, other, 0, 3)
    inflight = add_claim(one, of, 0, 4)
    assert one.full_partitions() == {of.partition}
    inflight.open_jobs = 0
    one.mark_committed(*one.take_committable()[0])
    assert one.full_partitions() == set()


def test_a_partition_has_its_share_of_the_bytes() -> None:
    one, of = lane(ahead_bytes_max=48), lease(0)
    inflight = add_claim(one, of, 0, 2)  # 14 bytes: a key of two, a value of five
    assert one.full_partitions(owned=3) == one.full_partitions() == set()
    assert one.full_partitions(owned=4) == one.full_partitions(owned=1_000) == {of.partition}
    inflight.open_jobs = 0
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
    gone.open_jobs = 0
    assert one.take_committable() == [(ended, [gone])]
    one.drop_leases([ended])
    one.mark_committed(ended, [gone])
    assert [task.inflight for task in one.take_batch(full=False)] == [stays]
    assert one.active_leases() == [other]
