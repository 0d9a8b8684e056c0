"""Segments on a GPU. The use of bitmaps is tested on any machine, the rest only where a GPU is."""

import threading

import faiss
import numpy as np
import pytest

from contracts.ports.hit import VectorQuery
from index_store.ann.gpu import Device, DeviceRows, open_device
from index_store.merge.run import MergeRunner
from index_store.segment.reader import Selection
from tests.kits.index_kit import IMAGES, SPACE, batch, filled, new_spill, pairs, record, vectors

ROWS = 3000
needs_gpu = pytest.mark.skipif(not faiss.get_num_gpus(), reason="no GPU on this machine")


def flat_rows() -> tuple[DeviceRows, np.ndarray]:
    """Return rows on a stand-in for a GPU, and the rows themselves (n, dim) in float32.

    A flat Faiss index on the CPU, searched without a selector, answers as one on a GPU does.
    """
    rows = vectors(ROWS).astype(np.float32)
    index = faiss.IndexFlatIP(SPACE.dim)
    index.add(rows)
    return DeviceRows(index, threading.RLock()), rows


def selected(alive: np.ndarray) -> Selection:
    bits, rows = np.packbits(alive, bitorder="little"), len(alive)
    return Selection(bits, int(alive.sum()), rows, rows)


@pytest.mark.parametrize("share", [1.0, 0.9, 0.3])
def test_rows_left_out_by_the_bitmap_are_replaced_by_the_next_best(share: float) -> None:
    device, rows = flat_rows()
    alive = np.random.default_rng(1).random(ROWS) < share
    queries = vectors(8, seed=2).astype(np.float32)
    found = device.nominate(queries, 20, selected(alive))
    assert found is not None
    scores, numbers, cuts, complete = found
    exact = np.where(alive, queries @ rows.T, -2)
    assert numbers.tolist() == np.argsort(-exact, axis=1)[:, :20].tolist()
    assert np.allclose(scores, np.sort(-exact, axis=1)[:, :20] * -1, atol=1e-6)
    # The cuts are where the ranking ended, and only the cut left rows out.
    assert cuts.tolist() == scores[:, -1].tolist()
    assert complete


def test_more_are_asked_for_where_the_best_are_all_left_out() -> None:
    device, rows = flat_rows()
    query = vectors(1, seed=2).astype(np.float32)
    order = np.argsort(-(rows @ query[0]))
    alive = np.ones(ROWS, np.bool_)
    alive[order[:500]] = False
    found = device.nominate(query, 10, selected(alive))
    assert found is not None
    assert found.numbers[0].tolist() == order[500:510].tolist()


def test_the_cpu_answers_where_the_device_would_have_to_look_at_too_many() -> None:
    device, rows = flat_rows()
    query = vectors(1, seed=2).astype(np.float32)
    few = np.zeros(ROWS, np.bool_)
    few[:20] = True
    assert device.nominate(query, 10, selected(few)) is None
    order = np.argsort(-(rows @ query[0]))
    unlucky = np.ones(ROWS, np.bool_)
    unlucky[order[:2045]] = False
    assert device.nominate(query, 10, selected(unlucky)) is None


@pytest.mark.anyio
async def test_a_segment_that_was_placed_is_searched_there_and_answers_as_before() -> None:
    """The stand-in for a GPU is a flat Faiss index on the CPU."""
    asked: list[int] = []

    class Counted(DeviceRows):
        def nominate(self, queries, most, selection):  # type: ignore[no-untyped-def]
            asked.append(most)
            return super().nominate(queries, most, selection)

    def place(segment) -> None:  # type: ignore[no-untyped-def]
        index = faiss.IndexFlatIP(SPACE.dim)
        index.add(segment.rows.vectors.astype(np.float32))
        segment.device = Counted(index, threading.RLock())

    index = filled(vectors(400))
    await MergeRunner(new_spill(), index_type="Flat", place=place).run(index, "images")
    at = index.positions[IMAGES]
    index.apply(batch(*(record(at + n, f"i{n:04}", None) for n in range(0, 400, 7))))
    for row in vectors(10, seed=9):
        query = VectorQuery("images", row)
        assert [pairs(h) for h in index.view.search([query], recall=0.95)] == [
            pairs(h) for h in index.view.search([query])
        ]
    assert len(asked) == 10
    # The estimate is too high for a search on the event loop.
    assert index.view.cost_ms(VectorQuery("images", vectors(1)[0]), 0.95) > 1.5


def test_without_a_gpu_or_where_none_is_wanted_nothing_is_placed() -> None:
    assert open_device(0) is None
    if not faiss.get_num_gpus():
        assert open_device(1024) is None


@needs_gpu
@pytest.mark.anyio
@pytest.mark.parametrize("index_type", ["Flat", "IVF16,SQ8", "IVF16,Flat", "IVF16,PQ8"])
async def test_on_the_device(index_type: str) -> None:
    index, device = filled(vectors(ROWS)), Device(64 << 20)
    rebuilder = MergeRunner(
        new_spill(), index_type=index_type, place=lambda s: device.load_segment(s, 0.95)
    )
    await rebuilder.run(index, "images")
    [segment] = index.segments_of("images").sealed_segments
    assert segment.device is not None
    at = index.positions[IMAGES]
    index.apply(batch(*(record(at + n, f"i{n:04}", None) for n in range(0, ROWS, 7))))
    right = 0
    for row in vectors(50, seed=9):
        [near], [exact] = (
            index.view.search([VectorQuery("images", row)], recall=recall)
            for recall in (0.95, None)
        )
        right += len({*pairs(near)} & {*pairs(exact)})
        assert len(near) == 10
    assert right >= 0.95 * 500


@needs_gpu
@pytest.mark.anyio
async def test_what_does_not_fit_stays_on_the_cpu_and_memory_comes_back() -> None:
    size = ROWS * SPACE.dim * 2
    index, device = filled(vectors(ROWS)), Device(int(1.5 * size))
    rebuilder = MergeRunner(
        new_spill(), index_type="Flat", place=lambda s: device.load_segment(s, 0.95)
    )
    for _ in range(2):
        # The second segment is built while the first still takes the memory of the device.
        await rebuilder.run(index, "images")
    [segment] = index.segments_of("images").sealed_segments
    assert segment.device is None
    index.refresh()
    assert device.load_segment(segment, 0.95)
