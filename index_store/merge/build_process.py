"""The process that builds a sealed segment from files, beside a node that goes on answering.

    python -m index_store.merge.build_process SPEC.json PARENT

It maps the files that it reads, so its memory is that of the index and of some blocks. It runs
with low priority and few threads, and ends when its parent does. It writes the segment's files into
`out`, and `built.json` last.
"""

import os
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import orjson

from contracts.atomic_write import atomic_write
from contracts.score import Vectors
from contracts.supervision.children import die_with_parent
from contracts.topics import Target
from index_store import digest
from index_store.ann import choice, flat, tuning
from index_store.ann.faiss_index import AnnIndex, OperatingPoint
from index_store.segment import columns
from index_store.segment.columns import Arrays
from index_store.segment.files import ANN, COLUMNS, VECTORS
from index_store.segment.id_lookup import sorted_hashes
from index_store.segment.rows import Numbers

BUILT = "built.json"
# The niceness of the process, as searches come first. A growing merge comes before a full one:
# until it is done, every search scans the growing rows.
_NICE_FULL = 19
_NICE_GROWING = 10
# The recall that an index trained on other rows may lose at most.
_SHORTFALL = 0.02
_BLOCK_ROWS = 16_384


@dataclass(frozen=True, slots=True)
class BuildInput:
    """The files of a segment, and a file of the numbers of its live rows."""

    vectors: str
    columns: str
    rows: int
    numbers: str


@dataclass(frozen=True, slots=True)
class BuildSpec:
    """The segment to build, from the rows of `pieces`, into the folder `out`.

    `queries` are .npy files of float16 vectors (n, dim) to tune on: one file for each source of
    queries. `like` is the file of an index whose training is taken over ("": none), and `points`
    are the operating points of that index. Up to `scanned_rows` rows get no index; an index takes
    `bytes_max` bytes at most (0: as many as its type needs).
    """

    target: Target
    dim: int
    index_type: str
    threads: int
    pieces: list[BuildInput]
    queries: list[str]
    out: str
    like: str = ""
    points: list[OperatingPoint] = field(default_factory=list)
    scanned_rows: int = choice.SCANNED_ROWS
    bytes_max: int = 0


def main() -> None:
    """Build from the spec file of the first argument; the second is the parent's process id."""
    die_with_parent(int(sys.argv[2]))
    raw = orjson.loads(Path(sys.argv[1]).read_bytes())
    pieces = [BuildInput(**piece) for piece in raw["pieces"]]
    points = [OperatingPoint(**point) for point in raw["points"]]
    spec = BuildSpec(**raw | {"pieces": pieces, "points": points})
    os.nice(_NICE_GROWING if spec.like else _NICE_FULL)
    faiss.omp_set_num_threads(spec.threads)
    build(spec)


def build(spec: BuildSpec) -> None:
    """Build a segment's files. Raises ValueError when a row does not have its stored hash."""
    out = Path(spec.out)
    pieces = [_open(piece, spec.dim) for piece in spec.pieces]
    # 1. Write the columns, with the sorted hashes by which an id is found.
    arrays = columns.gather_columns([(piece, numbers) for piece, _, numbers in pieces])
    ids = columns.unpack_columns(arrays, np.empty((0, spec.dim), np.float16)).ids
    arrays["ids.hashes"], arrays["ids.order"] = sorted_hashes(ids)
    columns.save_columns(arrays, out / COLUMNS)
    # 2. Write the vectors, in a file that Faiss maps.
    rows = columns.count_rows(arrays)
    with (out / VECTORS).open("wb") as file:
        file.write(flat.file_head(spec.dim, rows))
        for block in _blocks(pieces):
            file.write(block.tobytes())
    exact = flat.mapped_index(out / VECTORS, spec.dim, rows)
    vectors = flat.index_vectors(exact)
    _require_digests(spec.target, arrays, vectors)
    # 3. Build the index and measure its operating points.
    built: dict[str, Any] = {"rows": rows, "kind": None, "points": []}
    queries = [np.load(path) for path in spec.queries]
    ann = _build_like(spec, exact, queries) or _build_trained(spec, exact, queries)
    if ann is not None:
        faiss.write_index(ann.index, str(out / ANN))
        built |= {"kind": ann.index_type, "points": [asdict(point) for point in ann.points]}
        if ann.points and queries:
            trial, last = (
                tuning.TuningQueries.of(vectors, tuning.sample_queries(queries)),
                ann.points[-1],
            )
            found = trial.recalls(ann, last.effort, last.depth)
            built |= {"bars": trial.bars.tolist(), "found": found.mean()}
    # 4. A reader that finds this file finds the others complete.
    atomic_write(out / BUILT, orjson.dumps(built, option=orjson.OPT_SERIALIZE_NUMPY), durable=False)


def _open(piece: BuildInput, dim: int) -> tuple[Arrays, Vectors, Numbers]:
    vectors = flat.index_vectors(flat.mapped_index(Path(piece.vectors), dim, piece.rows))
    return columns.load_columns(Path(piece.columns)), vectors, np.load(piece.numbers)


def _blocks(pieces: list[tuple[Arrays, Vectors, Numbers]]) -> Iterator[Vectors]:
    for _, vectors, numbers in pieces:
        for start in range(0, len(numbers), _BLOCK_ROWS):
            yield vectors[numbers[start : start + _BLOCK_ROWS]]


def _build_like(spec: BuildSpec, rows: flat.Flat, queries: list[Vectors]) -> AnnIndex | None:
    """Return an index with the training of another one, or None.

    None means that the spec names no index, or that these rows are so unlike those it was trained
    on that its best recall would be lower by more than _SHORTFALL.
    """
    if not spec.like:
        return None
    index = faiss.read_index(spec.like)
    index.reset()
    ann = AnnIndex(spec.index_type, _with_rows(index, flat.index_vectors(rows)), spec.points, rows)
    ann.points = tuning.remeasure_points(ann, flat.index_vectors(rows), queries)
    if tuning.best_recall(ann.points) < tuning.best_recall(spec.points) - _SHORTFALL:
        return None
    return ann


def _build_trained(spec: BuildSpec, rows: flat.Flat, queries: list[Vectors]) -> AnnIndex | None:
    """Train an index on these rows and tune it; return None for so few that they are scanned."""
    vectors = flat.index_vectors(rows)
    index_type = choice.resolve_index_type(
        spec.index_type, len(vectors), spec.dim, spec.scanned_rows, spec.bytes_max
    )
    if index_type == "Flat":
        return None
    try:
        index = _filled(index_type, vectors)
    except RuntimeError as error:
        # Faiss needs as many rows as there are centroids, and a configured type may have many.
        if "training points" not in str(error) or len(vectors) > spec.scanned_rows:
            raise
        return None
    ann = AnnIndex(index_type, index, [], rows)
    ann.points = tuning.measure_points(ann, vectors, queries)
    return ann


def _filled(index_type: str, vectors: Vectors) -> faiss.Index:
    index = faiss.index_factory(vectors.shape[1], index_type, faiss.METRIC_INNER_PRODUCT)
    ivf = faiss.try_extract_index_ivf(index)
    coded: Any = None if ivf is None else faiss.downcast_index(ivf)
    if isinstance(coded, faiss.IndexIVFPQ):
        # Polysemous training orders the codes for a search by Hamming distance, which is not used
        # here. With it, 3,000 rows took 44 s to train; without, 2 s.
        coded.do_polysemous_training = False  # type: ignore[attr-defined]
    most = choice.training_rows(index)
    sample = np.arange(len(vectors))
    if len(vectors) > most:
        sample = np.sort(np.random.default_rng(0).choice(len(vectors), most, replace=False))
    index.train(vectors[sample].astype(np.float32))
    return _with_rows(index, vectors)


def _with_rows(index: faiss.Index, vectors: Vectors) -> faiss.Index:
    for start in range(0, len(vectors), _BLOCK_ROWS):
        index.add(vectors[start : start + _BLOCK_ROWS].astype(np.float32))
    return index


def _require_digests(target: Target, arrays: Arrays, vectors: Vectors) -> None:
    """Raise ValueError unless every row still has the hash that was stored with it."""
    rows = columns.unpack_columns(arrays, vectors)
    origins = list(rows.origins[:])
    columns_of = zip(rows.ids, rows.items, rows.texts, rows.metadata, strict=True)
    offsets = rows.offsets.tolist()
    for n, (item_id, item, text, metadata) in enumerate(columns_of):
        source = (*origins[n], offsets[n])
        vector = vectors[n].tobytes()
        found = digest.item_hash(target, item_id, source, vector, item, text, metadata)
        if found != rows.hashes[n].tobytes():
            raise ValueError(f"row {n} ({item_id!r}) is not the one that its digest was made of")


if __name__ == "__main__":
    main()
