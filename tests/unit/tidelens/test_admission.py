"""The limiter's decisions on which connections are admitted, without sockets."""

import random
import resource
from collections import Counter

import pytest

from contracts.settings import MIB, Settings
from contracts.testing.clock import ManualClock
from tidelens.server.address_counts import MembersByAddress, address_of
from tidelens.server.admission import (
    LEAVING_MAX,
    UNCOUNTED_BYTES,
    ClientConnection,
    ConnectionLimiter,
    ConnectionLimits,
    ConnectionPhase,
)
from tidelens.server.error_answers import Refusal
from tidelens.server.file_descriptors import RESERVED, open_connection_limiter
from tidelens.server.transfer_pace import SendProgress, TransferRate


class Client:
    """A protocol that records why it was refused."""

    def __init__(self, limiter: ConnectionLimiter, address: str) -> None:
        self.refusal: Refusal | None = None
        self.connection: ClientConnection = limiter.new_connection(address, self)
        self._limiter = limiter

    def refuse(self, refusal: Refusal) -> None:
        self.refusal = refusal
        self._limiter.leave(self.connection)

    def check(self, now: float) -> None:
        """There is nothing to check."""


def enter(
    limiter: ConnectionLimiter, address: str, phase: ConnectionPhase = ConnectionPhase.WAITING
) -> Client:
    client = Client(limiter, address)
    client.refusal = limiter.room_for(address)
    if client.refusal is None:
        limiter.enter(client.connection)
        limiter.set_phase(client.connection, phase)
    return client


def test_at_the_limit_the_address_with_most_waiting_connections_loses_one() -> None:
    limiter = ConnectionLimiter(ConnectionLimits(connections_max=10, per_address_max=8))
    friend = enter(limiter, "127.0.0.1")
    strangers = [enter(limiter, "127.0.0.2") for _ in range(8)]
    enter(limiter, "127.0.0.1")
    newcomer = enter(limiter, "127.0.0.3")
    assert newcomer.refusal is None and friend.refusal is None
    assert [s.refusal is None for s in strangers] == [False] + 7 * [True]
    assert limiter.connections == 10
    assert limiter.refused == {"http_connections_max": 1}


def test_an_address_at_its_limit_replaces_its_own_connections() -> None:
    limiter = ConnectionLimiter(ConnectionLimits(connections_max=10, per_address_max=3))
    first, *_ = [enter(limiter, "127.0.0.2") for _ in range(4)]
    assert first.refusal is not None and limiter.connections == 3
    assert first.refusal.field == "http_connections_per_address_max"
    busy = [enter(limiter, "127.0.0.3", ConnectionPhase.WORKING) for _ in range(4)]
    assert [c.refusal is None for c in busy] == [True, True, True, False]
    assert busy[3].refusal is not None and (busy[3].refusal.status, busy[3].refusal.limit) == (
        503,
        3,
    )


def test_an_address_may_replace_its_own_only_a_few_times_between_checks() -> None:
    limiter = ConnectionLimiter(ConnectionLimits(connections_max=10, per_address_max=3))
    let_in = [enter(limiter, "127.0.0.2").refusal is None for _ in range(100)]
    assert sum(let_in) < 30 and all(let_in[:5])
    assert enter(limiter, "127.0.0.3").refusal is None
    limiter.check()
    assert enter(limiter, "127.0.0.2").refusal is None


def test_waiting_connections_are_replaced_first_then_receiving_ones_and_working_ones_never() -> (
    None
):
    limiter = ConnectionLimiter(ConnectionLimits(connections_max=3, per_address_max=3))
    working = enter(limiter, "127.0.0.1", ConnectionPhase.WORKING)
    sending = enter(limiter, "127.0.0.2", ConnectionPhase.RECEIVING)
    waiting = enter(limiter, "127.0.0.3")
    assert enter(limiter, "127.0.0.4", ConnectionPhase.WORKING).refusal is None and waiting.refusal
    assert enter(limiter, "127.0.0.4", ConnectionPhase.WORKING).refusal is None and sending.refusal
    assert enter(limiter, "127.0.0.4").refusal is not None and working.refusal is None


def test_a_bounded_number_may_linger_to_read_the_refusal() -> None:
    limiter = ConnectionLimiter()
    clients = [Client(limiter, "127.0.0.2") for _ in range(LEAVING_MAX + 1)]
    for client in clients:
        limiter.enter(client.connection)
    assert [limiter.let_linger(c.connection) for c in clients] == LEAVING_MAX * [True] + [False]
    assert limiter.connections == 0
    limiter.leave(clients[0].connection)
    assert limiter.let_linger(clients[-1].connection)


def test_bodies_are_bounded_by_address_and_in_all_and_small_ones_pass() -> None:
    kib = 1024
    limits = ConnectionLimits(bodies_bytes_max=100 * kib, bodies_per_address_bytes_max=60 * kib)
    limiter = ConnectionLimiter(limits)
    stranger = [enter(limiter, "127.0.0.2", ConnectionPhase.RECEIVING) for _ in range(3)]
    for client in stranger:
        limiter.count_body_bytes(client.connection, 30 * kib + UNCOUNTED_BYTES)
    assert [c.refusal is None for c in stranger] == [True, True, False]
    assert limiter.body_bytes == 60 * kib
    friend = enter(limiter, "127.0.0.1", ConnectionPhase.RECEIVING)
    limiter.count_body_bytes(friend.connection, 50 * kib + UNCOUNTED_BYTES)
    # The largest address loses its newest body, since both are arriving; the smaller one goes on.
    assert [c.refusal is None for c in stranger] == [True, False, False]
    assert friend.refusal is None and limiter.body_bytes == 80 * kib
    small = enter(limiter, "127.0.0.3", ConnectionPhase.RECEIVING)
    limiter.count_body_bytes(small.connection, UNCOUNTED_BYTES)
    assert small.refusal is None and limiter.body_bytes == 80 * kib
    for client in (*stranger, friend, small):
        limiter.leave(client.connection)
    assert limiter.body_bytes == limiter.connections == 0


def test_a_stalled_body_makes_room_for_one_that_moves() -> None:
    clock = ManualClock()
    limits = ConnectionLimits(bodies_per_address_bytes_max=100_000, bytes_per_s_min=1000)
    limiter = ConnectionLimiter(limits, now=clock.now)
    stalled = enter(limiter, "127.0.0.2", ConnectionPhase.RECEIVING)
    limiter.count_body_bytes(stalled.connection, 90_000)
    clock.advance(5.0)
    moving = enter(limiter, "127.0.0.2", ConnectionPhase.RECEIVING)
    limiter.count_body_bytes(moving.connection, 90_000)
    assert stalled.refusal is not None and moving.refusal is None
    assert stalled.refusal.field == "bodies_per_address_mb_max"


def test_counting_by_address_agrees_with_a_plain_count() -> None:
    dice = random.Random(7)
    counted: MembersByAddress[int] = MembersByAddress()
    plain: dict[str, set[int]] = {}
    for _ in range(5000):
        address, member = f"127.0.0.{dice.randrange(6)}", dice.randrange(12)
        if dice.random() < 0.5:
            counted.add(address, member)
            plain.setdefault(address, set()).add(member)
        else:
            counted.discard(address, member)
            plain.get(address, set()).discard(member)
        sizes = Counter({a: len(members) for a, members in plain.items() if members})
        largest = counted.largest_address()
        assert (sizes[largest] if largest else 0) == max(sizes.values(), default=0)
        assert set(counted.of(address)) == plain.get(address, set())


@pytest.mark.parametrize(
    ("host", "address"),
    [
        ("127.0.0.2", "127.0.0.2"),
        ("::ffff:127.0.0.2", "127.0.0.2"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::"),
        ("fe80::1%eth0", "fe80::"),
        ("", ""),
    ],
)
def test_one_client_is_an_ipv4_address_or_an_ipv6_network(host: str, address: str) -> None:
    assert address_of(host) == address


def test_the_rate_is_required_in_every_window() -> None:
    rate = TransferRate(10.0, 100.0)
    rate.start(0.0)
    rate.moved(1000)
    assert not rate.too_slow(10.1)  # and the next window begins
    rate.moved(999)
    assert not rate.behind(12.0, 2.0) and not rate.too_slow(20.0)
    assert rate.too_slow(20.2)
    # A transfer that stands still is behind, whatever arrived before.
    rate.start(30.0)
    assert rate.behind(32.1, 2.0) and not rate.behind(31.9, 2.0)


def test_answers_must_be_read_at_the_minimum_rate() -> None:
    unsent = SendProgress(10.0, 100.0)
    assert not unsent.stuck(50_000, 0.0)
    assert not unsent.stuck(49_000, 10.1)
    assert unsent.stuck(48_500, 20.3)
    assert not unsent.stuck(0, 20.4) and not unsent.stuck(50_000, 21.0)
    unsent.emptied()
    assert not unsent.stuck(50_000, 40.0)


@pytest.mark.parametrize(
    ("soft", "hard", "let_in", "raised"),
    [
        (1024, 524_288, 4096, 4096 + RESERVED + LEAVING_MAX),
        (1024, 2048, 2048 - RESERVED - LEAVING_MAX, 2048),
        (20_000, 20_000, 4096, None),
        (256, 256, 16, 256),
        (1024, resource.RLIM_INFINITY, 4096, 4096 + RESERVED + LEAVING_MAX),
    ],
)
def test_the_soft_limit_is_raised_and_descriptors_are_kept(
    monkeypatch: pytest.MonkeyPatch, soft: int, hard: int, let_in: int, raised: int | None
) -> None:
    asked: list[tuple[int, int]] = []
    monkeypatch.setattr(resource, "getrlimit", lambda _: (soft, hard))
    monkeypatch.setattr(resource, "setrlimit", lambda _, limits: asked.append(limits))
    assert open_connection_limiter(Settings()).limits.connections_max == let_in
    assert asked == ([] if raised is None else [(raised, hard)])


def test_a_body_of_the_largest_size_always_fits() -> None:
    limits = ConnectionLimits.of(
        Settings(body_bytes_max=300 * MIB, bodies_mb_max=1, bodies_per_address_mb_max=1)
    )
    assert limits.bodies_bytes_max > 300 * MIB < limits.bodies_per_address_bytes_max
