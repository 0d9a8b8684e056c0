"""The filter grammar: the meaning of each operator, canonical keys, and where a refusal points."""

from typing import Any

import pytest

from contracts.errors import RejectedRequest
from contracts.filters.json_form import parse
from contracts.filters.text_form import FILTER_TEXT_CHARS_MAX, parse_text

CAT = {"lang": "en", "year": 2004, "score": 0.5, "tags": ["cat", 3, True], "draft": False}


def matches(raw: Any, metadata: dict[str, Any]) -> bool:
    return parse(raw).matches(metadata)


@pytest.mark.parametrize(
    "raw",
    [
        {"eq": {"lang": "en"}},
        {"eq": {"year": 2004.0}},
        {"eq": {"draft": False}},
        {"in": {"lang": ["de", "en"]}},
        {"range": {"year": {"gte": 2004, "lt": 2005}}},
        {"range": {"year": {"gt": 2003.9}}},
        {"range": {"score": {"gt": 0, "lte": 0.5}}},
        {"exists": "draft"},
        {"contains": {"tags": "cat"}},
        {"contains": {"tags": 3.0}},
        {"contains": {"tags": True}},
        {"and": [{"eq": {"lang": "en"}}, {"exists": "year"}]},
        {"or": [{"eq": {"lang": "de"}}, {"exists": "year"}]},
        {"not": {"eq": {"nothing": "en"}}},
    ],
)
def test_what_matches(raw: Any) -> None:
    assert matches(raw, CAT)
    assert not matches({"not": raw}, CAT)


@pytest.mark.parametrize(
    "raw",
    [
        {"eq": {"lang": "e"}},
        {"eq": {"draft": 0}},
        {"eq": {"tags": "cat"}},
        {"eq": {"year": "2004"}},
        {"in": {"year": [2003, 2005]}},
        {"range": {"year": {"gt": 2004}}},
        {"range": {"year": {"lt": 2004}}},
        {"range": {"draft": {"gte": 0}}},
        {"range": {"lang": {"gte": 0}}},
        {"range": {"year": {"gte": 5, "lte": 4}}},
        {"exists": "nothing"},
        {"contains": {"lang": "e"}},
        {"contains": {"tags": "ca"}},
        {"contains": {"tags": 1}},
        {"contains": {"tags": "3"}},
    ],
)
def test_what_does_not_match(raw: Any) -> None:
    assert not matches(raw, CAT)


def test_null_counts_as_missing_and_an_object_only_exists() -> None:
    assert not matches({"exists": "a"}, {"a": None})
    assert not matches({"contains": {"a": "x"}}, {"a": [None, ["x"], {"x": "x"}]})
    assert matches({"exists": "a"}, {"a": {"b": 1}})
    assert not matches({"eq": {"a": "b"}}, {"a": {"b": 1}})


def test_numbers_beyond_a_float_compare_exactly() -> None:
    big = 2**63 + 1
    assert matches({"eq": {"a": big}}, {"a": big})
    assert not matches({"eq": {"a": float(big)}}, {"a": big})
    assert matches({"range": {"a": {"gt": float(big)}}}, {"a": big})


@pytest.mark.parametrize(
    ("left", "right"),
    [
        ({"eq": {"a": 1}}, {"eq": {"a": 1.0}}),
        ({"eq": {"a": 2**60}}, {"in": {"a": [2.0**60, 2**60]}}),
        ({"in": {"a": ["x", "y", "x"]}}, {"in": {"a": ["y", "x"]}}),
        ({"and": [{"exists": "a"}, {"exists": "b"}]}, {"and": [{"exists": "b"}, {"exists": "a"}]}),
        ({"or": [{"exists": "a"}, {"exists": "a"}]}, {"exists": "a"}),
        (
            {"and": [{"exists": "a"}, {"and": [{"exists": "b"}, {"exists": "c"}]}]},
            {"and": [{"exists": "a"}, {"exists": "b"}, {"exists": "c"}]},
        ),
        ({"range": {"a": {"lt": 2, "gte": 1}}}, {"range": {"a": {"gte": 1.0, "lt": 2}}}),
        ({"eq": {"a": -0.0}}, {"eq": {"a": 0}}),
    ],
)
def test_equal_filters_have_equal_keys(left: Any, right: Any) -> None:
    one, other = parse(left), parse(right)
    assert (one.key, one, hash(one)) == (other.key, other, hash(other))
    assert parse(one.to_json()) == one


@pytest.mark.parametrize(
    ("left", "right"),
    [
        ({"eq": {"a": 1}}, {"eq": {"a": True}}),
        ({"eq": {"a": 1}}, {"eq": {"a": "1"}}),
        ({"eq": {"a": 1}}, {"contains": {"a": 1}}),
        ({"range": {"a": {"lt": 1}}}, {"range": {"a": {"lte": 1}}}),
        ({"and": [{"exists": "a"}, {"exists": "b"}]}, {"or": [{"exists": "a"}, {"exists": "b"}]}),
    ],
)
def test_other_filters_have_other_keys(left: Any, right: Any) -> None:
    assert parse(left) != parse(right)


def test_the_fields_used_and_the_kinds_wanted() -> None:
    used = parse(
        {
            "and": [
                {"in": {"a": ["x", 1]}},
                {"not": {"range": {"b": {"gt": 1}}}},
                {"or": [{"contains": {"c": True}}, {"exists": "d"}, {"exists": "b"}]},
            ]
        }
    ).fields()
    assert used == {
        "a": {"string", "number"},
        "b": {"number"},
        "c": {"list of boolean"},
        "d": set(),
    }


def nested(levels: int) -> Any:
    return {"exists": "a"} if levels == 1 else {"not": nested(levels - 1)}


@pytest.mark.parametrize(
    ("raw", "field", "limit", "value"),
    [
        ({}, "filter", 1, 0),
        ([], "filter", None, None),
        (None, "filter", None, None),
        ({"eq": {"a": 1}, "exists": "a"}, "filter", 1, 2),
        ({"like": {"a": 1}}, "filter", None, "'like'"),
        ({"eq": "a"}, "filter.eq", None, None),
        ({"eq": {}}, "filter.eq", 1, 0),
        ({"eq": {"a": 1, "b": 2}}, "filter.eq", 1, 2),
        ({"eq": {"a": None}}, "filter.eq.a", None, None),
        ({"eq": {"a": [1]}}, "filter.eq.a", None, None),
        ({"eq": {"a": float("nan")}}, "filter.eq.a", None, None),
        ({"eq": {"a": 2**64}}, "filter.eq.a", 2**64 - 1, str(2**64)),
        ({"eq": {"a": "\ud800"}}, "filter.eq.a", None, None),
        ({"eq": {"a": "x" * 4097}}, "filter.eq.a", 4096, 4097),
        ({"eq": {"x" * 257: 1}}, "filter.eq", 256, 257),
        ({"in": {"a": []}}, "filter.in.a", None, None),
        ({"in": {"a": "xy"}}, "filter.in.a", None, None),
        ({"in": {"a": ["x", None]}}, "filter.in.a[1]", None, None),
        ({"in": {"a": [1] * 1001}}, "filter.in.a", 1000, 1001),
        ({"range": {"a": {}}}, "filter.range.a", None, None),
        ({"range": {"a": {"above": 1}}}, "filter.range.a", None, None),
        ({"range": {"a": {"gte": 1, "gt": 1}}}, "filter.range.a", None, None),
        ({"range": {"a": {"gte": "x"}}}, "filter.range.a.gte", None, None),
        ({"range": {"a": {"gte": True}}}, "filter.range.a.gte", None, None),
        ({"exists": 1}, "filter.exists", None, None),
        ({"contains": {"a": {}}}, "filter.contains.a", None, None),
        ({"and": []}, "filter.and", None, None),
        ({"or": {}}, "filter.or", None, None),
        ({"and": [nested(1), {"range": {"year": 3}}]}, "filter.and[1].range.year", None, None),
        ({"or": [{"not": {"wat": 1}}]}, "filter.or[0].not", None, "'wat'"),
        (nested(9), "filter" + ".not" * 8, 8, 9),
        ({"and": [nested(1)] * 64}, "filter.and[63]", 64, None),
    ],
)
def test_what_is_refused_and_where(raw: Any, field: str, limit: Any, value: Any) -> None:
    with pytest.raises(RejectedRequest) as caught:
        parse(raw)
    error = caught.value
    assert (error.code, error.field, error.limit, error.value) == (
        "invalid_filter",
        field,
        limit,
        value,
    )
    assert error.message.startswith(f"{field}: ")


def test_just_within_the_limits() -> None:
    parse(nested(8))
    parse({"and": [nested(1)] * 63})
    parse({"in": {"x" * 256: ["y" * 4096] * 1000}})


@pytest.mark.parametrize(
    ("text", "raw"),
    [
        ('lang = "en"', {"eq": {"lang": "en"}}),
        ('lang="e\\"n\\u00e9"', {"eq": {"lang": 'e"né'}}),
        ("draft = true", {"eq": {"draft": True}}),
        ("a != -1.5e3", {"not": {"eq": {"a": -1500.0}}}),
        ("a<1", {"range": {"a": {"lt": 1}}}),
        ("a <= 1", {"range": {"a": {"lte": 1}}}),
        ("a > 1", {"range": {"a": {"gt": 1}}}),
        ("a>=1", {"range": {"a": {"gte": 1}}}),
        ('lang in ("en","de", 3)', {"in": {"lang": ["en", "de", 3]}}),
        ('tags contains "cat"', {"contains": {"tags": "cat"}}),
        ("exists(exif.iso-speed)", {"exists": "exif.iso-speed"}),
        ('exists ( "my and field" )', {"exists": "my and field"}),
        ('"in" = 1', {"eq": {"in": 1}}),
        ("größe = 1", {"eq": {"größe": 1}}),
        ("((a = 1))", {"eq": {"a": 1}}),
        ("not not a = 1", {"not": {"not": {"eq": {"a": 1}}}}),
        (
            "NOT a = 1 AND b = 2 or c = 3",
            {"or": [{"and": [{"not": {"eq": {"a": 1}}}, {"eq": {"b": 2}}]}, {"eq": {"c": 3}}]},
        ),
        (
            'lang = "en" and (year >= 2000 or tags contains "cat") and not exists(draft)\n',
            {
                "and": [
                    {"eq": {"lang": "en"}},
                    {"or": [{"range": {"year": {"gte": 2000}}}, {"contains": {"tags": "cat"}}]},
                    {"not": {"exists": "draft"}},
                ]
            },
        ),
    ],
)
def test_the_text_form(text: str, raw: Any) -> None:
    assert parse_text(text) == raw
    parse(raw)


@pytest.mark.parametrize(
    ("text", "at", "why"),
    [
        ("", 1, "a field's name, got the end"),
        ("  ", 1, "got the end"),
        ("lang = en", 8, "double quotes, got en"),
        ("lang = 'en'", 8, "cannot read"),
        ('lang = "en', 8, "a string ends"),
        ('lang = "\\x"', 8, "not a JSON string"),
        ("a = 1.2.3", 5, "not a JSON number"),
        ("a = 2024-01-01", 5, "not a JSON number"),
        ("a = 01", 5, "not a JSON number"),
        ("a", 2, "want =, !=, <"),
        ("a == 1", 4, "want a value"),
        ('a < "x"', 5, "want a number"),
        ("a = 1 b = 2", 7, "want `and`, `or` or the end, got b"),
        ("(a = 1", 7, "want ), got the end"),
        ("a = 1)", 6, "want `and`"),
        ("a in 1", 6, "want ("),
        ("a in ()", 7, "want a value"),
        ("and = 1", 1, "in double quotes, got and"),
        ("exists a", 8, "want ("),
        ("a = 1 and", 10, "got the end"),
        ("(" * 40 + "a = 1", 33, "too deep"),
        ("not " * 10_000, None, "limit 10000 characters"),
        ("not " * 2000, 129, "too deep"),
    ],
)
def test_errors_of_the_text_form_name_the_character(text: str, at: int | None, why: str) -> None:
    with pytest.raises(RejectedRequest) as caught:
        parse_text(text)
    assert (caught.value.code, caught.value.field) == ("invalid_filter", "filter")
    assert why in caught.value.message
    if at is not None:
        assert caught.value.message.startswith(f"filter: at character {at}: ")


def test_a_text_of_many_spaces_is_read_quickly() -> None:
    with pytest.raises(RejectedRequest):
        parse_text(" " * (FILTER_TEXT_CHARS_MAX - 1) + "~")
