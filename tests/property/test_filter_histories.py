"""A filter's answer, warnings included, is a function of the live items, however they came to be.

The same filter is asked of an index with dead rows and segments built on the way, of one restored
from a snapshot, and of a fresh one that holds the live items only; what all must answer is found by
looking at every live item. In half of the runs hardly any field gets an index.
"""

import asyncio
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contracts.filters.json_form import Filter, parse
from contracts.filters.warnings import FilterWarning, warnings_of
from contracts.ports.hit import VectorQuery
from contracts.testing.blob_store import MemoryBlobStore
from index_store.index import Index
from index_store.metadata import segment_fields
from index_store.metadata.metadata_index import MetadataIndex
from tests.kits.index_kit import (
    batch,
    built,
    new_index,
    new_spill,
    put,
    record,
    snapshots_in,
    types_by_field,
    vectors,
)
from tests.property.test_filtering import FILTERS, METADATA

VECTORS = vectors(8)
LOOP: asyncio.Runner

ITEMS = st.integers(0, 7)
# An item with this metadata, a deleted one (None), or a merge of all rows into a new segment.
STEPS = st.lists(st.tuples(ITEMS, METADATA | st.none()) | st.just("rebuild"), max_size=16)

Answered = tuple[list[str], list[FilterWarning]]


@pytest.fixture(autouse=True, scope="module")
def one_loop() -> Iterator[None]:
    """Open the loop at each setup of this module: a worker of the test run may come back to it."""
    global LOOP
    with asyncio.Runner() as LOOP:
        yield


def rebuilt(index: Index) -> None:
    merge = index.begin_merge("images")
    segment = LOOP.run(built(index, "images", merge, new_spill(), "Flat"))
    index.commit_merge("images", merge, segment)


def restored(index: Index) -> Index:
    snapshots = snapshots_in(MemoryBlobStore())
    LOOP.run(snapshots.write(index))
    found = LOOP.run(snapshots.restore(index.empty_copy()))
    assert found is not None, snapshots.refused
    return found


def answered(index: Index, condition: Filter) -> Answered:
    query = VectorQuery("images", VECTORS[0], 100, filter=condition)
    [answer] = index.view.answers([query])
    return sorted(hit.id for hit in answer.hits), list(answer.warnings)


@pytest.mark.parametrize("fields_max", [1000, 1])
@settings(max_examples=60, deadline=None)
@given(STEPS, st.lists(FILTERS, min_size=1, max_size=4), st.sets(st.integers(0, 15)))
def test_it_is_the_same_by_every_history(
    fields_max: int, steps: list[Any], raws: list[Any], asks_after: set[int]
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            segment_fields, "MetadataIndex", partial(MetadataIndex, fields_max=fields_max)
        )
        index, live = new_index(growing_segment_rows=4), dict[str, dict[str, Any]]()
        conditions = [parse(raw) for raw in raws]
        for n, step in enumerate(steps):
            if step == "rebuild":
                rebuilt(index)
            else:
                number, metadata = step
                live.pop(f"i{number}", None)
                if metadata is None:
                    one = record(n, f"i{number}", None)
                else:
                    live[f"i{number}"] = metadata
                    one = put(n, f"i{number}", VECTORS[number], metadata=metadata)
                index.apply(batch(one))
            if n in asks_after:
                check(index, live, conditions)
        fresh = new_index()
        fresh.apply(
            batch(
                *(
                    put(n, item_id, VECTORS[0], metadata=metadata)
                    for n, (item_id, metadata) in enumerate(live.items())
                )
            )
        )
        for state in (index, fresh, restored(index)):
            check(state, live, conditions)
        rebuilt(index)
        check(index, live, conditions)


def check(index: Index, live: dict[str, dict[str, Any]], conditions: list[Filter]) -> None:
    for condition in conditions:
        matching = sorted(i for i, metadata in live.items() if condition.matches(metadata))
        warnings = list(warnings_of(condition, types_by_field(live.values())))
        assert answered(index, condition) == (matching, warnings), condition.to_json()
