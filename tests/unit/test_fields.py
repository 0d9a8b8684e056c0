"""The value index of metadata: every kind of value, the three ways it is kept, what is refused."""

from typing import Any

import numpy as np
import orjson
import pytest
from pyroaring import BitMap

from contracts.errors import RejectedRequest
from contracts.filters import parse
from index_store import fields as module
from index_store.fields import Fields, check, selector_bits
from index_store.values import TERMS_MAX


def rows_of(*metadata: dict[str, Any] | None) -> list[bytes | None]:
    return [None if one is None else orjson.dumps(one) for one in metadata]


def index(*metadata: dict[str, Any] | None) -> Fields:
    fields = Fields()
    fields.extend(rows_of(*metadata))
    return fields


def select(fields: Fields, raw: Any) -> list[int]:
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
    fields = Fields()
    assert len(fields) == 0
    assert select(fields, {"not": {"exists": "a"}}) == []
    assert fields.kinds() == {}


def test_rows_are_appended_between_questions() -> None:
    fields = Fields()
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


def test_the_kinds_seen() -> None:
    assert index(*MIXED).kinds() == {
        "lang": {"string", "object"},
        "year": {"number", "string", "boolean"},
        "tags": {"string", "list", "list of string", "list of number", "list of boolean"},
        "draft": {"boolean"},
    }
    assert index({"a": None}).kinds() == {}
    assert index({"a": [None, {}]}, {"a": ["x"]}).kinds() == {"a": {"list", "list of string"}}


def test_check_names_field_wanted_and_found_kinds() -> None:
    kinds = {"lang": {"string"}, "year": {"number"}, "tags": {"list of string"}, "e": {"list"}}
    for good in (
        {"in": {"lang": ["en", "de"]}},
        {"exists": "tags"},
        {"contains": {"tags": "cat"}},
        {"contains": {"e": 1}},
        {"not": {"range": {"year": {"gt": 1}}}},
    ):
        check(parse(good), kinds)
    for raw, code, field, found, wanted in (
        ({"exists": "langg"}, "unknown_field", "langg", None, "langg"),
        ({"range": {"lang": {"gt": 1}}}, "wrong_type", "lang", ["string"], "number"),
        ({"in": {"lang": ["en", 1]}}, "wrong_type", "lang", ["string"], "number"),
        ({"contains": {"lang": "e"}}, "wrong_type", "lang", ["string"], "list of string"),
        ({"contains": {"tags": 1}}, "wrong_type", "tags", ["list of string"], "list of number"),
        ({"eq": {"tags": "cat"}}, "wrong_type", "tags", ["list of string"], "string"),
        ({"not": {"eq": {"year": True}}}, "wrong_type", "year", ["number"], "boolean"),
    ):
        with pytest.raises(RejectedRequest) as caught:
            check(parse(raw), kinds)
        error = caught.value
        assert (error.code, error.field) == (code, f"filter.{field}")
        assert (error.limit, error.value) == (found, wanted)
        assert repr(field) in error.message
    with pytest.raises(RejectedRequest, match="known: none"):
        check(parse({"exists": "a"}), {})


def test_field_names_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FIELDS_MAX", 3)
    fields = index({"a": 1, "n": None, "b": 1}, {"c": 1})
    assert select(fields, {"exists": "d"}) == []
    fields.extend(rows_of({"d": 1, "a": 2}))
    assert select(fields, {"exists": "a"}) == [0, 2]
    for raw in ({"exists": "d"}, {"and": [{"exists": "nothing"}, {"eq": {"d": 1}}]}):
        check(parse(raw), fields.kinds())
        with pytest.raises(RejectedRequest, match="more than 3 different") as caught:
            fields.select(parse(raw))
        assert (caught.value.code, caught.value.limit) == ("field_not_indexed", 3)


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
