"""Compare searches per second at equal recall: Tidelens, plain Faiss, embedded vector stores.

    python -m benchmarks.index_search [--quick] [--json FILE] [--peers DIR]

Text queries at CLIP-like pictures, recall@10 against the exact answer. Every system runs in a
process of its own, one after the other, on the same rows, each tuned to reach the recall of the
queries that are asked with the least effort: quiet with one and with eight clients, with filters
that admit 50, 1 and 0.01 % of the rows, then with 1,000 upserts/s after a tenth of the rows was
deleted. DIR is where the peers of requirements/peers.in were installed (`uv pip install
--target DIR`); one that is absent is named so in its row.
"""

import argparse
import importlib.util
import json
import os
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.report import Goal, finish, parser
from contracts.supervision.children import module_command

SYSTEMS = ("tidelens", "faiss", "hnswlib", "usearch", "lancedb", "chroma", "qdrant")
MODULES = {"chroma": "chromadb", "qdrant": "qdrant_edge"}
EMBEDDED = ("hnswlib", "usearch", "lancedb", "chroma", "qdrant")


def run(system: str, rows: int, peers: Path | None) -> list[dict[str, Any]]:
    """Run one system in a fresh process, and return its rows."""
    command = module_command("benchmarks.searching", system, str(rows))
    path = os.pathsep.join(str(p) for p in (peers, os.environ.get("PYTHONPATH")) if p)
    ended = subprocess.run(
        command,
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    if ended.returncode:
        last = ended.stderr.strip().splitlines()[-1:] or ["no message"]
        return [{"system": system, "rows": rows, "note": f"failed: {last[0][:80]}"}]
    found: list[dict[str, Any]] = json.loads(ended.stdout.splitlines()[-1])
    return found


def present(system: str, peers: Path | None) -> bool:
    name = MODULES.get(system, system)
    if peers is not None and (list(peers.glob(name)) or list(peers.glob(f"{name}.*"))):
        return True
    return system == "tidelens" or importlib.util.find_spec(name) is not None


def goals_of(table: Sequence[dict[str, Any]]) -> list[Goal]:
    """Return goals: under ingest against the best peer, and quiet against plain Faiss."""
    found = []
    for rows, target in sorted({(r["rows"], r["target"]) for r in table if "target" in r}):
        here = {r["system"]: r for r in table if (r["rows"], r.get("target")) == (rows, target)}
        ours = here["tidelens"]
        # A peer that cannot take the upserts is not searched under them, whatever it answers.
        kept = [r for name, r in here.items() if name in EMBEDDED and r["upserts_per_s"] >= 900]
        if kept:
            best = max(r["qps_ingest"] for r in kept)
            name = f"{rows} rows, {target}: QPS under ingest / best peer that keeps up"
            found.append(Goal(name, ours["qps_ingest"] / best, 1.5, "higher"))
        if any(name in EMBEDDED for name in here):
            best = max(r["qps_ingest"] for name, r in here.items() if name in EMBEDDED)
            name = f"{rows} rows, {target}: QPS under ingest / best peer, keeping up or not"
            found.append(Goal(name, ours["qps_ingest"] / best, 1.5, "higher"))
        if "faiss" in here:
            for clients in ("qps_1", "qps_8"):
                name = f"{rows} rows, {target}: {clients} / plain Faiss"
                found.append(Goal(name, ours[clients] / here["faiss"][clients], 0.8, "higher"))
    return found


def main() -> None:
    made: argparse.ArgumentParser = parser("index_search", __doc__ or "")
    made.add_argument("--peers", type=Path)
    made.add_argument("--sizes", help="numbers of rows, with commas between")
    made.add_argument("--systems", default=",".join(SYSTEMS))
    arguments = made.parse_args()
    sizes = [100_000] if arguments.quick else [100_000, 300_000, 1_000_000]
    if arguments.sizes:
        sizes = [int(size) for size in arguments.sizes.split(",")]
    table: list[dict[str, Any]] = []
    for rows in sizes:
        for system in arguments.systems.split(","):
            if not present(system, arguments.peers):
                table.append({"system": system, "rows": rows, "note": "not installed"})
                continue
            table += run(system, rows, arguments.peers)
            print(table[-1], flush=True)
    finish("index_search", table, goals_of(table), arguments.json)


if __name__ == "__main__":
    main()
