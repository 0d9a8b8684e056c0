"""Lists that follow their index: our standing queries against Pathway's indexes.

    python -m benchmarks.live_vs_pathway [--quick] [--json FILE] [--peers DIR]

The best ten of 100,000 CLIP-like pictures for each of 100 queries while items get other vectors, in
batches of 1 to 8,192: given to the index, and the lists known that follow, before the next is
given. Ours is the index and the standing set in one process, as the node has them. Pathway is all
that its indexes can do: see benchmarks/pathway_follower.py. Each is in a process of its own, one
after the other, on the same rows. DIR is where the peers of requirements/peers.in were installed.
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks.report import Goal, finish, parser

Row = dict[str, Any]

# With as many threads as there are cores here, and with one. USearch takes each upsert in each
# thread. LSH hands all that lies in a query's buckets to Python whenever one of them changes: not
# for 100,000 rows.
_PATHWAY = (("brute", 1), ("brute", 2), ("usearch", 1), ("usearch", 2))
_PATHWAY_SMALL = (*_PATHWAY, ("lsh 20x16", 1), ("lsh 20x12", 1))
_LIVE_MS = 1_000.0


def run(name: str, threads: int, rows: int, seconds: float, peers: Path | None) -> list[Row]:
    """One system in a fresh process; its rows."""
    ours = name == "tidelens"
    path = os.pathsep.join(str(p) for p in (peers, os.environ.get("PYTHONPATH")) if p)
    environment = {**os.environ, "PATHWAY_THREADS": str(threads)}
    if not ours:
        environment["PYTHONPATH"] = path
    command = [sys.executable, "-m", "benchmarks.following", name, str(rows), str(seconds)]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    found: list[Row] = [json.loads(line) for line in ended.stdout.splitlines() if line[:1] == "{"]
    for row in found:
        if not ours:
            row |= {"system": f"pathway {name}", "threads": threads}
        print(row, flush=True)
    if ended.returncode:
        last = ended.stderr.strip().splitlines()[-1:] or ["no message"]
        found.append({"system": name, "rows": rows, "note": f"failed: {last[0][:120]}"})
        print(found[-1], flush=True)
    return found


def highest(rows: list[Row]) -> float:
    """Upserts/s whose lists are known within a second; where none are, upserts/s."""
    live = [row for row in rows if row["p50_ms"] <= _LIVE_MS]
    return max(float(row["upserts_per_s"]) for row in live or rows)


def goals_of(rows: int, table: list[Row]) -> list[Goal]:
    done = [row for row in table if row["rows"] == rows and "note" not in row]
    ours = [row for row in done if row["system"] == "tidelens"]
    theirs = [row for row in done if row["system"] != "tidelens"]
    if not theirs:
        return []
    soonest = [min(row["p50_ms"] for row in side) for side in (theirs, ours)]
    return [
        Goal(
            f"{rows} rows: upserts/s with lists within 1 s / Pathway's best",
            highest(ours) / highest(theirs),
            5,
            "higher",
        ),
        Goal(
            f"{rows} rows: Pathway's shortest median latency / ours",
            soonest[0] / soonest[1],
            5,
            "higher",
        ),
    ]


def main() -> None:
    made: argparse.ArgumentParser = parser("live_vs_pathway", __doc__ or "")
    made.add_argument("--peers", type=Path)
    arguments = made.parse_args()
    seconds = 2.0 if arguments.quick else 8.0
    table: list[Row] = []
    goals: list[Goal] = []
    for rows in (10_000,) if arguments.quick else (10_000, 100_000):
        table += run("tidelens", 1, rows, seconds, None)
        for name, threads in _PATHWAY_SMALL if rows == 10_000 else _PATHWAY:
            table += run(name, threads, rows, seconds, arguments.peers)
        goals += goals_of(rows, table)
    finish("live_vs_pathway", table, goals, arguments.json)


if __name__ == "__main__":
    main()
