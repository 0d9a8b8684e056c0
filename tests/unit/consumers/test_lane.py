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


def take_off(one: EncodeLane, of: Lease, first: int, count: int) -> InflightClaim:
    records = [record(of.partition.partition, first + n) for n in range(count)]
    jobs = [Job(each, "captions") for each in records]
    return one.take_off(RecordClaim(of, records, first + count), jobs)


def test_claims_of_a_partition_land_in_order_and_together() -> None:
    one, of = lane(), lease()
    first, second = take_off(one, of, 0, 2), take_off(one, of, 2, 1)
    second.open = 0
    assert one.land() == []
    first.open = 0
    assert one.land() == [(of, [first, second])]
    assert one.land() == [], "one transaction at a time"
    third = take_off(one, of, 3, 1)
    third.open = 0
    assert one.land() == []
    one.landed(of, [first, second])
    assert one.land() == [(of, [third])]
    one.landed(of, [third])
    assert one.leases() == [] and one.under_way == 0


def test_headers_count_as_bytes_under_way() -> None:
    one, of = lane(ahead_bytes_max=100), lease()
    flight = one.take_off(
        RecordClaim(of, [Record("t", 0, 0, 0, b"k", b"", [("h", b"x" * 100)])], 1), []
    )
    assert not one.has_room
    one.land()
    one.landed(of, [flight])
    assert one.has_room


def test_partitions_do_not_wait_for_each_other() -> None:
    one, slow, quick = lane(), lease(0), lease(1)
    take_off(one, slow, 0, 1)
    flight = take_off(one, quick, 0, 1)
    flight.open = 0
    assert one.land() == [(quick, [flight])]


def test_a_partition_with_enough_under_way_is_full_until_it_lands() -> None:
    one, of, other = lane(ahead_max=4), lease(0), lease(1)
    take_off(one, other, 0, 3)
    flight = take_off(one, of, 0, 4)
    assert one.full() == {of.partition}
    flight.open = 0
    one.landed(*one.land()[0])
    assert one.full() == set()


def test_a_partition_has_its_share_of_the_bytes() -> None:
    one, of = lane(ahead_bytes_max=48), lease(0)
    flight = take_off(one, of, 0, 2)  # 14 bytes: a key of two, a value of five
    assert one.full(owned=3) == one.full() == set()
    assert one.full(owned=4) == one.full(owned=1_000) == {of.partition}
    flight.open = 0
    one.landed(*one.land()[0])
    assert one.full(owned=4) == set()
    take_off(one, of, 2, 2)
    one.drop([of])
    assert one.full(owned=4) == set()


def test_bytes_are_bounded_over_all_partitions() -> None:
    one, of, other = lane(ahead_bytes_max=25), lease(0), lease(1)
    take_off(one, of, 0, 2)
    assert one.has_room
    take_off(one, other, 0, 3)
    assert not one.has_room
    one.drop([other])
    assert one.has_room


def test_a_batch_takes_the_longest_waiting_and_a_full_one_waits_for_more() -> None:
    one, of = lane(), lease()
    flight = take_off(one, of, 0, 5)
    errands = [EncodeTask(job, flight) for job in flight.jobs]
    for errand in errands[:2]:
        one.wait(errand)
    assert one.batch(full=True) == []
    for errand in errands[2:]:
        one.wait(errand)
    assert one.batch(full=True) == errands[:3]
    assert one.batch(full=True) == []
    assert one.batch(full=False) == errands[3:]


def test_what_an_ended_lease_had_under_way_is_gone() -> None:
    one, ended, other = lane(), lease(0), lease(1)
    gone, stays = take_off(one, ended, 0, 1), take_off(one, other, 0, 1)
    for flight in (gone, stays):
        one.wait(EncodeTask(flight.jobs[0], flight))
    gone.open = 0
    assert one.land() == [(ended, [gone])]
    one.drop([ended])
    one.landed(ended, [gone])
    assert [errand.flight for errand in one.batch(full=False)] == [stays]
    assert one.leases() == [other]
