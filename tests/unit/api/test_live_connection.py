"""The state machine of a connection: every legal step, and every illegal one raises."""

from typing import Any

import orjson
import pytest

from api.live.connection import ConnectionState, LiveConnection
from api.live.subscription import Subscription, SubscriptionState
from api.live.top.ranked_item import ListItem, RankedItem
from contracts.errors import RejectedRequest
from contracts.events.record import RecordPosition
from contracts.ports.hit import Hit
from contracts.settings import Settings
from contracts.topics import TARGETS, Target
from contracts.wire.as_of import AsOf
from contracts.wire.client_messages import Subscribe
from contracts.wire.cursor import Cursor
from contracts.wrong_step import WrongStep


def connection() -> LiveConnection:
    return LiveConnection(Settings(subscriptions_max=3, frame_bytes_max=10_000))


def read(one: LiveConnection, **message: Any) -> Any:
    return one.parse_frame(text=orjson.dumps(message).decode(), data=None)


def subscribe(one: LiveConnection, sub: str = "s", **rest: Any) -> Subscription:
    step = read(one, op="subscribe", sub=sub, query={"text": "cat"}, **rest)
    assert isinstance(step, Subscription)
    return step


def hit(name: str, rank: int) -> RankedItem:
    """`rank` is its place where it is used, for the reader."""
    source = RecordPosition("content", 0, 7)
    return 1.0, ListItem(Hit("captions", name, rank, 1.0, source))


def as_of(offset: int, space: str = "s1", epoch: str = "e1") -> AsOf:
    return AsOf(space, epoch, {"images": [offset]})


def kinds(messages: list[dict[str, Any]]) -> list[str]:
    return [message["type"] for message in messages]


def test_opening_live_ended() -> None:
    one = connection()
    subscription = subscribe(one)
    assert subscription.state is SubscriptionState.OPENING
    assert kinds(subscription.list_messages([hit("a", 1)], as_of(1))) == ["snapshot"]
    assert subscription.state is SubscriptionState.LIVE
    assert kinds(subscription.list_messages([hit("b", 1)], as_of(2))) == ["delta"]
    assert subscription.list_messages([hit("b", 1)], as_of(3)) == []
    one.end(subscription)
    assert subscription.state is SubscriptionState.ENDED
    assert one.subscriptions == {}


def test_steps_of_ours_that_the_state_forbids() -> None:
    one = connection()
    subscription = subscribe(one)
    one.end(subscription)
    with pytest.raises(WrongStep, match="got ENDED"):
        subscription.list_messages([], as_of(1))
    with pytest.raises(WrongStep, match="got ENDED"):
        subscription.mark_ended()
    assert one.close() == []
    assert one.state is ConnectionState.CLOSED
    with pytest.raises(WrongStep, match="want OPEN, got CLOSED"):
        read(one, op="ping")
    with pytest.raises(WrongStep, match="want OPEN, got CLOSED"):
        one.close()


def test_closing_ends_everything() -> None:
    one = connection()
    first, second = subscribe(one, "a"), subscribe(one, "b")
    second.list_messages([], as_of(1))
    assert one.close() == [first, second]
    assert {first.state, second.state} == {SubscriptionState.ENDED}


def test_a_name_is_free_again_after_its_end() -> None:
    one = connection()
    first = subscribe(one)
    with pytest.raises(RejectedRequest) as error:
        subscribe(one)
    assert error.value.code == "duplicate_sub"
    one.end(first)
    assert subscribe(one) is not first


def resumed(one: LiveConnection, hits: list[dict[str, Any]], state: AsOf) -> Subscription:
    earlier = subscribe(one, "earlier")
    earlier.list_messages(hits, state)
    assert earlier.cursor is not None
    return subscribe(one, "later", cursor=earlier.cursor.encode())


def test_resuming() -> None:
    hits = [hit("a", 1)]
    later = resumed(connection(), hits, as_of(1))
    [message] = later.list_messages(hits, as_of(5))
    assert message["type"] == "resumed"
    assert Cursor.decode(message["cursor"]).as_of == as_of(5)
    assert kinds(later.list_messages([], as_of(6))) == ["delta"]
    later = resumed(connection(), hits, as_of(1))
    assert kinds(later.list_messages([], as_of(5))) == ["snapshot"]


@pytest.mark.parametrize(
    ("now", "reason"),
    [(as_of(0, space="s2"), "space_changed"), (as_of(0, epoch="e2"), "epoch_changed")],
)
def test_another_state_altogether(now: AsOf, reason: str) -> None:
    hits = [hit("a", 1)]
    later = resumed(connection(), hits, as_of(1))
    reset, snapshot = later.list_messages(hits, now)
    assert reset["reason"].startswith(reason)
    assert snapshot["type"] == "snapshot"


def test_how_long_to_wait_is_not_part_of_the_question() -> None:
    def digest(**query: Any) -> str:
        message = Subscribe.model_validate(
            {"op": "subscribe", "sub": "s", "query": {"text": "cat", **query}}
        )
        subscription = Subscription(message)
        subscription.list_messages([], as_of(1))
        assert subscription.cursor is not None
        return subscription.cursor.query_digest

    assert digest() == digest(timeout_s=3.0) == digest(k=10)
    assert len({digest(), digest(k=11), digest(target="captions"), digest(min_score=0.0)}) == 4


def test_a_cursor_of_as_many_partitions_as_there_may_be() -> None:
    offsets: dict[Target, list[int]] = {target: [2**63 - 1] * 4096 for target in TARGETS}
    cursor = Cursor(AsOf("s" * 64, "e" * 64, offsets), "q" * 24, "h" * 24)
    assert Cursor.decode(cursor.encode()) == cursor
