"""Filters over an index with a hostile or a deleted item: the answers about others stay right."""

import asyncio
from typing import Any

import pytest

from contracts.filters.json_form import parse
from contracts.metrics import Metrics
from contracts.ports.hit import VectorQuery
from index_store.index import Index
from index_store.search.searcher import LocalSearcher
from tests.kits.index_kit import batch, new_index, put, record, vectors

pytestmark = pytest.mark.anyio

# An item may have as many names as this only if an older version published it: the limit is 100.
NAMES = [f"name {n}" for n in range(1100)]
ROWS = vectors(601)


def searcher_of(index: Index, metrics: Metrics) -> LocalSearcher:
    searcher = LocalSearcher(reads=metrics.filter_rows_read.inc)
    searcher.serve(index)
    searcher.set_ready()
    return searcher


async def asked(searcher: LocalSearcher, raw: Any) -> tuple[list[str], list[str]]:
    """Search with a filter; return the ids found, sorted, and the codes of the warnings."""
    query = VectorQuery("images", ROWS[0], 1000, filter=parse(raw))
    [answer] = await searcher.search([query])
    return sorted(hit.id for hit in answer.hits), [one.code for one in answer.warnings]


async def test_one_item_with_many_names_changes_nobody_elses_answers() -> None:
    metrics, index = Metrics(), new_index(growing_segment_rows=1024)
    hostile = put(0, "hostile", ROWS[600], metadata=dict.fromkeys(NAMES, 1))
    index.apply(batch(hostile))
    searcher = searcher_of(index, metrics)
    # The names of the hostile item enter the metadata index before those of any other.
    assert await asked(searcher, {"exists": NAMES[0]}) == (["hostile"], [])
    others = [put(n + 1, f"i{n}", ROWS[n], metadata={"lang": "en"}) for n in range(600)]
    index.apply(batch(*others))
    everybody = sorted(f"i{n}" for n in range(600))
    for name in ("lang", NAMES[0], NAMES[550], NAMES[1099]):
        holders = everybody if name == "lang" else ["hostile"]
        assert await asked(searcher, {"exists": name}) == (holders, [])
        without = sorted({*everybody, "hostile"} - {*holders})
        assert await asked(searcher, {"not": {"exists": name}}) == (without, [])
    left_out = [n for n in NAMES if index.view.needs_scan("images", parse({"eq": {n: 1}}))]
    assert left_out
    before = metrics.registry.get_sample_value("tidelens_filter_rows_read_total")
    assert await asked(searcher, {"eq": {left_out[0]: 1}}) == (["hostile"], [])
    read = metrics.registry.get_sample_value("tidelens_filter_rows_read_total")
    assert before is not None and read == before + 601
    assert await searcher.audit("images") == 1.0
    index.apply(batch(record(601, "hostile", None)))
    assert await asked(searcher, {"exists": "lang"}) == (everybody, [])
    assert await asked(searcher, {"exists": left_out[1]}) == ([], ["unknown_field"])


async def test_what_must_be_read_holds_up_no_other_search(monkeypatch: pytest.MonkeyPatch) -> None:
    metrics, index = Metrics(), new_index(growing_segment_rows=1024)
    index.apply(batch(put(0, "a", ROWS[0], metadata=dict.fromkeys(NAMES, 1))))
    searcher = searcher_of(index, metrics)
    assert await asked(searcher, {"exists": NAMES[0]}) == (["a"], [])
    [name, *_] = [n for n in NAMES if index.view.needs_scan("images", parse({"exists": n}))]
    loop, reading, go_on = asyncio.get_running_loop(), asyncio.Event(), asyncio.Event()

    def held(rows: int) -> None:
        loop.call_soon_threadsafe(reading.set)
        asyncio.run_coroutine_threadsafe(go_on.wait(), loop).result()

    monkeypatch.setattr(searcher, "_reads", held)
    slow = asyncio.create_task(asked(searcher, {"exists": name}))
    await reading.wait()
    assert await asked(searcher, {"exists": NAMES[0]}) == (["a"], [])
    assert await asked(searcher, {"not": {"exists": NAMES[0]}}) == ([], [])
    assert not slow.done()
    go_on.set()
    assert await slow == (["a"], [])


async def test_dead_rows_have_no_fields() -> None:
    index = new_index()
    searcher = searcher_of(index, Metrics())
    assert await asked(searcher, {"not": {"exists": "draft"}}) == ([], ["unknown_field"])
    index.apply(
        batch(
            put(0, "a", ROWS[0], metadata={"lang": "en"}),
            put(1, "b", ROWS[1], metadata={"lang": 5, "draft": True}),
        )
    )
    assert await asked(searcher, {"not": {"exists": "draft"}}) == (["a"], [])
    assert await asked(searcher, {"range": {"lang": {"gt": 4}}}) == (["b"], [])
    index.apply(batch(record(2, "b", None)))
    assert await asked(searcher, {"not": {"exists": "draft"}}) == (["a"], ["unknown_field"])
    assert await asked(searcher, {"range": {"lang": {"gt": 4}}}) == ([], ["wrong_type"])
    # A warning is not due, since one of the two values may still match.
    assert await asked(searcher, {"in": {"lang": ["en", 5]}}) == (["a"], [])
