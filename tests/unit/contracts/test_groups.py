"""The names of consumer groups: those of a collection are recognised, and read into their parts."""

import pytest

from contracts.groups import GroupName
from contracts.topics import Names

NAMES = Names("shop.", "clip-v1")


@pytest.mark.parametrize(
    ("group", "want"),
    [
        (NAMES.encoder_group, GroupName("encode", "clip-v1")),
        (NAMES.index_group("0", "a-1"), GroupName("index", "clip-v1", "0", "a-1")),
        (NAMES.streams_app_id("0", "a-1"), GroupName("streams", "clip-v1", "0", "a-1")),
        # These belong to another collection, even where one prefix begins with the other.
        (Names("shop2.", "clip-v1").encoder_group, None),
        (Names("shop.eu.", "clip-v1").index_group("0", "0"), None),
        (Names("tidelens.", "clip-v1").index_group("0", "0"), None),
        # These look similar, but Tidelens does not make such names.
        ("shop.index.clip-v1.0", None),
        ("shop.index.clip-v1.0.0.0", None),
        ("shop.encode.clip-v1.0.0", None),
        ("shop.index.clip-v1.0.a b", None),
        ("shop.reports", None),
        ("shop", None),
        ("", None),
    ],
)
def test_a_name_is_read_as_it_is_made(group: str, want: GroupName | None) -> None:
    assert GroupName.read("shop.", group) == want


def test_an_index_node_has_two_groups_and_that_with_members_stands_first() -> None:
    for group in (NAMES.index_group("0", "b"), NAMES.streams_app_id("0", "b")):
        found = GroupName.read("shop.", group)
        assert found is not None
        assert found.names("shop.") == ["shop.streams.clip-v1.0.b", "shop.index.clip-v1.0.b"]
    assert GroupName("encode", "clip-v1").names("shop.") == ["shop.encode.clip-v1"]
