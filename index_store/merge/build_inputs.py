"""Write the files that the building process reads: the rows to merge, and queries to tune on."""

import asyncio
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from contracts.score import Vectors
from contracts.topics import TARGETS, Target
from index_store.ann import choice
from index_store.index import Index
from index_store.merge.build_process import BuildInput, BuildSpec
from index_store.segment.file_store import SegmentFileStore
from index_store.segment.pending_merge import PendingMerge

# The number of rows of each target that the index is tuned on; they measure recall to about 1 %.
_SAMPLED_ROWS = 128


async def write_build_spec(
    index: Index,
    target: Target,
    merge: PendingMerge,
    files: SegmentFileStore,
    out: Path,
    *,
    index_type: str,
    threads: int,
    recent: Vectors,
    scanned_rows: int = choice.SCANNED_ROWS,
    bytes_max: int = 0,
) -> BuildSpec:
    """Write the inputs of a build into the folder `out`, and return what to build from them.

    The rows of sealed segments are in files already. `recent` (n, dim) are vectors of the latest
    queries; for the rest see BuildSpec. Raises OSError.
    """
    inputs = []
    for n, reader in enumerate(merge.readers):
        written = await files.write_out(reader)
        numbers = out / f"{n}.npy"
        await asyncio.to_thread(np.save, numbers, reader.numbers())
        vectors, columns = str(written.vectors), str(written.columns)
        inputs.append(BuildInput(vectors, columns, written.rows, str(numbers)))
    queries = []
    sampled = await asyncio.to_thread(_sample_queries, index)
    for n, some in enumerate([*sampled, recent]):
        if len(some):
            queries.append(str(out / f"queries-{n}.npy"))
            await asyncio.to_thread(np.save, queries[-1], some)
    return BuildSpec(
        target,
        index.space.dim,
        index_type,
        threads,
        inputs,
        queries,
        str(out),
        scanned_rows=scanned_rows,
        bytes_max=bytes_max,
    )


def _sample_queries(index: Index) -> Sequence[Vectors]:
    """Return some live vectors (n, dim) of each target, since queries resemble either target."""
    dice = np.random.default_rng(0)
    samples = []
    for target in TARGETS:
        readers = index.view.readers[target]
        live = np.array([reader.live for reader in readers], np.float64)
        if not live.sum():
            continue
        sample = [np.empty((0, index.space.dim), np.float16)]
        counts = dice.multinomial(_SAMPLED_ROWS, live / live.sum())
        for reader, count in zip(readers, counts, strict=True):
            most = min(int(count), reader.live)
            numbers = dice.choice(reader.numbers(), most, replace=False)
            sample.append(reader.rows.vectors[np.sort(numbers)])
        samples.append(np.concatenate(sample))
    return samples
