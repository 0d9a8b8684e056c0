"""The value index, the definition and both grammars agree on random metadata and filters."""

import re
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts.filters.json_form import parse
from contracts.filters.text_form import parse_text
from index_store.metadata.field_scan import scan
from index_store.metadata.metadata_index import MetadataIndex
from index_store.metadata.value_index import TERMS_MAX

NAMES = st.sampled_from(["a", "b", "my field", "and"])
BIG = st.sampled_from([2**53 - 1, 2**53, 2**53 + 1, float(2**53), -(2**63), 2**64 - 1, 1e300])
NUMBERS = st.integers(-3, 3) | st.sampled_from([0.5, -0.0, 1.0, 2.5]) | BIG
STRINGS = st.sampled_from(["", "x", "y", "1", "true", 'q"\\', "ü\u2028", "z1", "z2", "z3"])
SCALARS = NUMBERS | STRINGS | st.booleans()
LISTS: st.SearchStrategy[Any] = st.lists(
    SCALARS | st.none() | st.just([]) | st.just({"x": 1}), max_size=3
)
METADATA = st.dictionaries(NAMES, SCALARS | LISTS | st.none() | st.just({"x": "x"}), max_size=4)


def one(operator: str, operand: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return operand.map(lambda found: {operator: found})


def about(operand: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.tuples(NAMES, operand).map(lambda pair: dict([pair]))


BOUNDS = st.tuples(
    st.sampled_from([{"gte"}, {"gt"}, {"lte"}, {"lt"}, {"gte", "lt"}, {"gt", "lte"}]),
    NUMBERS,
    NUMBERS,
).map(lambda drawn: dict(zip(sorted(drawn[0]), drawn[1:], strict=False)))
LEAVES = (
    one("eq", about(SCALARS))
    | one("in", about(st.lists(SCALARS, min_size=1, max_size=4)))
    | one("range", about(BOUNDS))
    | one("exists", NAMES)
    | one("contains", about(SCALARS))
)
# Three levels of `and`, `or`, `not` at most, and a leaf: well within the limits.
FILTERS = LEAVES
for _ in range(3):
    PARTS = st.lists(FILTERS, min_size=1, max_size=3)
    FILTERS = LEAVES | one("and", PARTS) | one("or", PARTS) | one("not", FILTERS)


def text_of(raw: Any) -> str:
    """Return the text form, with more brackets than needed."""
    ((operator, operand),) = raw.items()
    if operator in ("and", "or"):
        return f"({f' {operator} '.join(map(text_of, operand))})"
    if operator == "not":
        return f"not {text_of(operand)}"
    if operator == "exists":
        return f"exists({name_of(operand)})"
    ((field, value),) = operand.items()
    name = name_of(field)
    if operator == "in":
        return f"{name} in ({', '.join(map(literal, value))})"
    if operator == "range":
        signs = {"gte": ">=", "gt": ">", "lte": "<=", "lt": "<"}
        return "(" + " and ".join(f"{name} {signs[b]} {literal(n)}" for b, n in value.items()) + ")"
    return f"{name} {'=' if operator == 'eq' else operator} {literal(value)}"


def name_of(field: str) -> str:
    plain = re.fullmatch(r"[a-z]+", field) and field not in ("and", "or", "not", "in")
    return field if plain else literal(field)


def literal(value: Any) -> str:
    return orjson.dumps(value).decode()


@pytest.mark.parametrize(("terms_max", "fields_max"), [(TERMS_MAX, 1000), (2, 2)])
@given(
    st.lists(METADATA | st.none(), max_size=12), st.lists(FILTERS, max_size=4), st.integers(0, 12)
)
def test_the_index_selects_what_matches(
    terms_max: int,
    fields_max: int,
    metadata: list[dict[str, Any] | None],
    raws: list[Any],
    split: int,
) -> None:
    rows = [None if row is None else orjson.dumps(row) for row in metadata]
    meant = [{} if raw is None else orjson.loads(raw) for raw in rows]
    fields = MetadataIndex(fields_max=fields_max, terms_max=terms_max)
    for part in (rows[:split], rows[split:]):
        fields.extend(part)
        for raw in raws:
            condition = parse(raw)
            expected = {n for n in range(len(fields)) if condition.matches(meant[n])}
            missing = fields.missing(condition)
            read = scan(rows, 0, len(fields), missing, terms_max=terms_max)
            assert set(fields.select(condition, read)) == expected, raw
            fields.add_fields(read)


@given(FILTERS)
def test_the_canonical_json_is_read_back(raw: Any) -> None:
    condition = parse(raw)
    again = parse(condition.to_json())
    assert (again, again.key, again.to_json()) == (condition, condition.key, condition.to_json())
    assert parse(orjson.loads(condition.key)) == condition


@given(FILTERS, METADATA)
def test_the_text_form_means_the_same(raw: Any, metadata: dict[str, Any]) -> None:
    by_text = parse(parse_text(text_of(raw)))
    assert by_text.matches(metadata) == parse(raw).matches(metadata)
    assert parse(parse_text(text_of(parse_text(text_of(raw))))) == by_text
    if "range" not in operators_of(raw):  # the text has one bound at a time
        assert by_text == parse(raw)


def operators_of(raw: Any) -> set[str]:
    ((operator, operand),) = raw.items()
    inner = operand if operator in ("and", "or") else [operand] if operator == "not" else []
    return {operator}.union(*map(operators_of, inner))


@given(st.lists(FILTERS, min_size=1, max_size=4), st.data())
def test_order_and_repetition_do_not_change_the_key(raws: list[Any], data: st.DataObject) -> None:
    shuffled = [*data.draw(st.permutations(raws)), data.draw(st.sampled_from(raws))]
    for operator in ("and", "or"):
        assert parse({operator: raws}).key == parse({operator: shuffled}).key
