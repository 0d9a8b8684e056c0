"""The metadata index: values of every JSON type, the ways it stores them, and its memory limit."""

from typing import Any, cast

import numpy as np
import orjson
import pytest
from pyroaring import BitMap

from contracts.filters.json_form import parse
from index_store.metadata.bitmaps import selector_bits
from index_store.metadata.field_index import live_types
from index_store.metadata.field_scan import scan
from index_store.metadata.metadata_index import MetadataIndex
from index_store.metadata.segment_fields import SegmentFields
from index_store.metadata.value_index import TERMS_MAX
from index_store.segment.rows import Rows


def rows_of(*metadata: dict[str, Any] | None) -> list[bytes | None]:
    return [None if one is None else orjson.dumps(one) for one in metadata]


def index(*metadata: dict[str, Any] | None) -> MetadataIndex:
    fields = MetadataIndex()
    fields.extend(rows_of(*metadata))
    return fields


def select(fields: MetadataIndex, raw: Any) -> list[int]:
    return list(fields.select(parse(raw)))


MIXED = (
    {"lang": "en", "year": 1999, "tags": ["cat", "red"], "draft": True},
    None,
    {"lang": "de", "year": 2004.5, "tags": []},
    {"lang": None, "year": "2004", "tags": "cat"},
    {"lang": "en", "year": True, "tags": [["cat"], None, 7]},
    {"lang": {"code": "en"}, "tags": ["cat", "cat", True]},
)


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        ({"eq": {"lang": "en"}}, [0, 4]),
        ({"eq": {"year": True}}, [4]),
        ({"eq": {"year": "2004"}}, [3]),
        ({"eq": {"year": 2004.5}}, [2]),
        ({"in": {"lang": ["de", "en", "fr"]}}, [0, 2, 4]),
        ({"in": {"year": [1999, "2004", True]}}, [0, 3, 4]),
        ({"range": {"year": {"gte": 1999, "lte": 2005}}}, [0, 2]),
        ({"range": {"year": {"gt": 1999}}}, [2]),
        ({"range": {"year": {"lt": 1999}}}, []),
        ({"exists": "lang"}, [0, 2, 4, 5]),
        ({"exists": "draft"}, [0]),
        ({"contains": {"tags": "cat"}}, [0, 5]),
        ({"contains": {"tags": 7}}, [4]),
        ({"contains": {"tags": True}}, [5]),
        ({"contains": {"lang": "en"}}, []),
        ({"not": {"eq": {"lang": "en"}}}, [1, 2, 3, 5]),
        ({"eq": {"nothing": 1}}, []),
        ({"not": {"exists": "nothing"}}, [0, 1, 2, 3, 4, 5]),
        ({"and": [{"exists": "tags"}, {"eq": {"lang": "en"}}, {"exists": "draft"}]}, [0]),
        ({"or": [{"exists": "draft"}, {"eq": {"lang": "de"}}, {"exists": "nothing"}]}, [0, 2]),
    ],
)
def test_what_is_selected(raw: Any, expected: list[int]) -> None:
    assert select(index(*MIXED), raw) == expected
    condition = parse(raw)
    assert [n for n, one in enumerate(MIXED) if condition.matches(one or {})] == expected


def test_no_rows() -> None:
    fields = MetadataIndex()
    assert len(fields) == 0
    assert select(fields, {"not": {"exists": "a"}}) == []


def test_rows_are_appended_between_questions() -> None:
    fields = MetadataIndex()
    for n in range(200):
        fields.extend(rows_of({"n": n % 7, "s": f"s{n % 3}", "u": f"u{n}"}, None))
        assert len(fields) == 2 * n + 2
        assert len(select(fields, {"range": {"n": {"lt": 7}}})) == n + 1
        assert select(fields, {"eq": {"u": f"u{n}"}}) == [2 * n]
    assert select(fields, {"eq": {"n": 3}}) == list(range(6, 400, 14))


def test_more_strings_than_have_a_bitmap_each() -> None:
    count = 3 * TERMS_MAX
    metadata = [{"url": f"https://example.org/{n % count}"} for n in range(2 * count)]
    fields = index(*metadata)
    for n in (0, TERMS_MAX - 1, TERMS_MAX, count - 1):
        assert select(fields, {"eq": metadata[n]}) == [n, n + count]
    asked = [metadata[n]["url"] for n in range(TERMS_MAX - 10, TERMS_MAX + 10)]
    found = select(fields, {"in": {"url": [*asked, "no such"]}})
    assert found == [n for n, one in enumerate(metadata) if one["url"] in asked]


def test_a_boolean_has_a_bitmap_however_many_strings_there_are() -> None:
    fields = index(*({"a": f"s{n}"} for n in range(TERMS_MAX + 1)), {"a": True}, {"a": "True"})
    assert select(fields, {"eq": {"a": True}}) == [TERMS_MAX + 1]
    assert select(fields, {"eq": {"a": "True"}}) == [TERMS_MAX + 2]


@pytest.mark.parametrize("base", [2**53, 2**63, 2**64 - 8, -(2**63) + 8])
def test_numbers_beyond_a_float_are_exact(base: int) -> None:
    numbers = [base + n for n in range(-8, 8)] + [float(base)]
    metadata = [{"n": n} for n in numbers if n < 2**64]
    fields = index(*metadata)
    for asked in (base - 1, base, base + 1):
        conditions: list[Any] = [{"eq": {"n": asked}}, {"in": {"n": [asked, asked + 1]}}]
        conditions += [{"range": {"n": {bound: asked}}} for bound in ("gt", "gte", "lt", "lte")]
        for raw in conditions:
            condition = parse(raw)
            expected = [n for n, one in enumerate(metadata) if condition.matches(one)]
            assert select(fields, raw) == expected


def test_what_is_selected_is_the_callers_own() -> None:
    fields = index({"a": 1, "b": "x"}, {"a": 1, "b": "x", "c": ["x"]})
    for raw in (
        {"eq": {"a": 1}},
        {"eq": {"b": "x"}},
        {"exists": "b"},
        {"or": [{"exists": "b"}, {"exists": "nothing"}]},
        {"and": [{"exists": "b"}, {"exists": "a"}]},
        {"contains": {"c": "x"}},
    ):
        before = select(fields, raw)
        fields.select(parse(raw)).clear()
        assert select(fields, raw) == before


def kinds(fields: MetadataIndex, name: str, alive: list[int]) -> set[str]:
    """Return the types of the values of the field `name` in the rows numbered in `alive`."""
    bits = np.zeros(len(fields), np.bool_)
    bits[alive] = True
    asked = fields.mark_used(parse({"exists": name}))
    if name not in asked:
        return set()
    return set(live_types(asked[name].rows_by_type, np.packbits(bits, bitorder="little")))


def test_the_kinds_seen() -> None:
    fields, every = index(*MIXED), list(range(len(MIXED)))
    assert kinds(fields, "lang", every) == {"string", "object"}
    assert kinds(fields, "year", every) == {"number", "string", "boolean"}
    lists = {"list", "list of string", "list of number", "list of boolean"}
    assert kinds(fields, "tags", every) == {"string"} | lists
    assert kinds(fields, "draft", every) == {"boolean"}
    assert kinds(index({"a": None}), "a", [0]) == set()
    fields = index({"a": [None, {}]}, {"a": ["x"]})
    assert kinds(fields, "a", [0, 1]) == {"list", "list of string"}


def test_the_kinds_of_dead_rows_do_not_count() -> None:
    fields = index(*MIXED)
    assert kinds(fields, "year", [0, 1, 2]) == {"number"}
    assert kinds(fields, "draft", [1, 2, 3]) == set()
    many = index(*({"a": 1} for _ in range(1000)), {"a": "x"})
    assert kinds(many, "a", [999, 1000]) == {"number", "string"}
    assert kinds(many, "a", [1000]) == {"string"}


def test_a_name_that_was_left_out_is_read_and_then_kept() -> None:
    rows = rows_of({"a": 1, "n": None, "b": 1}, {"c": 1}, {"d": 1, "a": 2}, {"a": 3, "x": {"c": 1}})
    fields = MetadataIndex(fields_max=3)
    fields.extend(rows[:2])
    assert fields.missing(parse({"exists": "d"})) == []
    fields.extend(rows[2:])
    condition = parse({"and": [{"not": {"eq": {"c": 1}}}, {"exists": "a"}]})
    assert fields.missing(condition) == ["c"]
    read = scan(rows, 0, len(rows), ["c"])
    assert list(fields.select(condition, read)) == [0, 2, 3]
    fields.mark_used(condition, read)
    fields.add_fields(read)
    assert fields.missing(condition) == []
    assert list(fields.select(condition)) == [0, 2, 3]
    fields.extend(rows_of({"c": 1, "a": 1}, {"c": 2, "a": 1}))
    assert list(fields.select(condition)) == [0, 2, 3, 5]


def test_what_many_rows_have_is_kept_before_invented_names() -> None:
    invented = [{f"i{n}_{m}": n for m in range(100)} for n in range(12)]
    fields = MetadataIndex(fields_max=1000)
    fields.extend(rows_of(*invented[:6], *({"lang": "en"} for _ in range(3)), *invented[6:]))
    assert fields.missing(parse({"eq": {"lang": "en"}})) == []
    for one in invented:
        fields.extend(rows_of(one))
    fields.extend(rows_of(*({"lang": "de"} for _ in range(600))))
    assert fields.missing(parse({"eq": {"lang": "de"}})) == []
    assert len(select(fields, {"eq": {"lang": "de"}})) == 600


def test_the_index_takes_no_more_than_its_bytes_whatever_comes() -> None:
    fields = MetadataIndex(fields_max=200, bytes_min=100_000, row_bytes_max=100)
    rng = np.random.default_rng(5)
    for n in range(40):
        # Publish names that come and go, long lists of numbers, and many long strings.
        fields.extend(
            rows_of(
                *({f"n{n}_{m}_{i}": m for m in range(20)} for i in range(10)),
                {"numbers": rng.random(500).tolist()},
                *({f"s{i}": f"{n}-{i}" + 400 * "x"} for i in range(50)),
                *({"lang": "en"} for _ in range(100)),
            )
        )
        assert fields.nbytes <= fields.bytes_max == max(100_000, 100 * len(fields))
    assert fields.missing(parse({"exists": "lang"})) == []
    assert fields.missing(parse({"exists": "numbers"})) == ["numbers"]


def test_one_field_that_is_too_large_does_not_push_out_the_others() -> None:
    rows = rows_of(*({"large": list(range(n, n + 50)), "lang": "en"} for n in range(1000)))
    fields = MetadataIndex(bytes_min=100_000, row_bytes_max=100)
    fields.extend(rows)
    condition = parse({"and": [{"contains": {"large": 50}}, {"eq": {"lang": "en"}}]})
    for _ in range(2):
        assert fields.missing(condition) == ["large"]
        read = scan(rows, 0, len(rows), ["large"])
        assert list(fields.select(condition, read)) == list(range(1, 51))
        fields.mark_used(condition, read)
        fields.add_fields(read)
    assert fields.nbytes <= fields.bytes_max


def test_what_filters_asked_for_is_kept_before_what_is_published() -> None:
    fields = MetadataIndex(fields_max=10)
    fields.extend(rows_of({"rare": 1}))
    fields.mark_used(parse({"exists": "rare"}))
    for n in range(50):
        fields.extend(rows_of(*({f"n{n}": 1} for _ in range(5))))
    assert fields.missing(parse({"exists": "rare"})) == []
    assert select(fields, {"exists": "rare"}) == [0]


def test_part_fields_read_without_the_lock_what_has_no_index() -> None:
    rows = Rows.blank(np.zeros((6, 4), np.float16))
    metadata = rows_of({"a": 1, "b": 1}, {"c": "x"}, None, {"d": [1], "c": "y"}, {"a": True})
    cast(list[Any], rows.metadata).extend(metadata)
    cast(list[Any], rows.ids).extend("abcde")
    part = SegmentFields(rows, MetadataIndex(fields_max=2))
    alive = np.packbits([True, True, True, False, True], bitorder="little")
    told: list[int] = []
    raws: dict[str, list[int]] = {"a": [0, 4], "b": [0], "c": [1, 3], "d": [3], "e": []}
    kinds = {"a": {"number", "boolean"}, "b": {"number"}, "c": {"string"}, "d": set(), "e": set()}
    for name in [*raws, *raws]:
        matching, found = part.select(parse({"exists": name}), alive, told.append)
        assert (name, list(matching)) == (name, raws[name])
        assert found.get(name, frozenset()) == kinds[name]
    assert told and set(told) == {5}
    assert not part.needs_scan(parse({"exists": "e"}))


def test_rows_that_come_while_others_are_read_are_not_forgotten() -> None:
    rows = Rows.blank(np.zeros((4, 4), np.float16))
    metadata, ids = cast(list[Any], rows.metadata), cast(list[Any], rows.ids)

    def append(one: dict[str, Any], item_id: str) -> None:
        metadata.extend(rows_of(one))
        ids.append(item_id)

    append({"a": 1, "b": 1}, "x")
    append({"a": 2, "c": 1}, "y")
    part = SegmentFields(rows, MetadataIndex(fields_max=2))
    alive = np.packbits([True] * 4, bitorder="little")
    part.select(parse({"exists": "a"}), alive, lambda rows: None)
    [left_out] = [n for n in "abc" if part.needs_scan(parse({"exists": n}))]
    condition = parse({"exists": left_out})
    before = 1 if left_out == "c" else 0
    matching, _ = part.select(condition, alive, lambda rows: append({left_out: 2}, "z"))
    assert list(matching) == [before, 2]
    append({left_out: 3}, "w")
    matching, _ = part.select(condition, alive, lambda rows: pytest.fail("it was kept"))
    assert list(matching) == [before, 2, 3]


@pytest.mark.parametrize("share", [0, 0.001, 0.05, 0.1, 0.5, 0.999, 1])
@pytest.mark.parametrize("capacity", [1, 7, 64, 8192, 65_536, 65_537, 300_001])
def test_selector_bits(share: float, capacity: int) -> None:
    chosen = np.random.default_rng(capacity).random(capacity) < share
    chosen[: capacity // 3] = share > 0.1  # a long run
    bitmap = BitMap(np.flatnonzero(chosen).tolist())
    expected = np.packbits(chosen, bitorder="little")
    for _ in range(2):
        bits = selector_bits(bitmap, capacity)
        assert bits.dtype == np.uint8
        assert np.array_equal(bits, expected)
        bitmap.run_optimize()


def test_selector_bits_of_distant_blocks_and_of_too_large_numbers() -> None:
    bitmap = BitMap([3, 5 * 65_536 + 9])
    bits = selector_bits(bitmap, 400_000)
    assert np.flatnonzero(np.unpackbits(bits, bitorder="little")).tolist() == list(bitmap)
    with pytest.raises(ValueError, match="below 8, got 327689"):
        selector_bits(bitmap, 8)
    assert selector_bits(BitMap(), 0).tolist() == []
    assert selector_bits(BitMap(range(9)), 9).tolist() == [255, 1]
