"""The changes between two lists: the fewest are reported, and applying them gives the new list."""

from typing import Any

from contracts.wire.delta import apply_changes, wire_list_changes


def hits(*names: str, **members: Any) -> list[dict[str, Any]]:
    return [{"id": name, "rank": rank, **members} for rank, name in enumerate(names, start=1)]


def told(old: list[dict[str, Any]], new: list[dict[str, Any]]) -> list[tuple[str, str]]:
    assert apply_changes(old, wire_list_changes(old, new)) == new
    return [(change["change"], change["id"]) for change in wire_list_changes(old, new)]


def test_equal_lists_differ_in_nothing() -> None:
    assert wire_list_changes(hits("a", "b"), hits("a", "b")) == []


def test_one_enters_and_pushes_one_out_while_neighbours_only_shift() -> None:
    assert told(hits("a", "b", "c"), hits("x", "a", "b")) == [("leave", "c"), ("enter", "x")]


def test_one_leaves_and_the_next_best_enters() -> None:
    assert told(hits("a", "b", "c"), hits("b", "c", "d")) == [("leave", "a"), ("enter", "d")]


def test_the_fewest_items_move() -> None:
    assert told(hits("a", "b", "c", "d"), hits("d", "a", "b", "c")) == [("move", "d")]
    assert told(hits("a", "b", "c", "d"), hits("b", "c", "d", "a")) == [("move", "a")]


def test_ranks_alone_are_no_update_but_any_other_member_is() -> None:
    old = hits("a", "b", source=1)
    new = [{**old[0], "source": 2}, old[1]]
    assert told(old, new) == [("update", "a")]
    assert told(hits("a", "b"), hits("b")) == [("leave", "a")]


def test_a_move_carries_the_new_hit() -> None:
    old = hits("a", "b", "c", score=1)
    new = [old[1] | {"rank": 1}, old[2] | {"rank": 2}, old[0] | {"rank": 3, "score": 0}]
    assert told(old, new) == [("move", "a")]


def test_everything_at_once() -> None:
    old = hits("a", "b", "c", "d", "e", text="")
    new = hits("e", "x", "c", "y", "a", text="")
    new[2]["text"] = "changed"
    assert apply_changes(old, wire_list_changes(old, new)) == new


def test_from_nothing_and_to_nothing() -> None:
    assert told([], hits("a", "b")) == [("enter", "a"), ("enter", "b")]
    assert told(hits("a", "b"), []) == [("leave", "a"), ("leave", "b")]
