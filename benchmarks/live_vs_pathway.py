"""Compare lists that follow their index: standing queries against Pathway's indexes.

    python -m benchmarks.live_vs_pathway [--quick] [--json FILE] [--peers DIR]

The best ten of 100,000 CLIP-like pictures for each of 100 queries while items get other vectors, in
batches of 1 to 8,192: given to the index, and the lists known that follow, before the next is
given. Tidelens is the index and the standing set in one process, as the node has them. Pathway is
all that its indexes can do: see benchmarks/pathway_follower.py. Each is in a process of its own,
one after the other, on the same rows. DIR is where the peers of requirements/peers.in were
installed.
"""

import argparse
import json
import os
import subprocess
from pathlib import Path
from typing import Any

from benchmarks.report import Goal, finish, parser
from contracts.supervision.children import module_command

Row = dict[str, Any]

# With one thread, and with as many as there are cores here. LSH hands all that lies in a query's
# buckets to Python whenever one of them changes: not for 100,000 rows.
_PATHWAY = (("brute", 1), ("brute", 2), ("usearch", 1), ("usearch", 2))
_LSH = (("lsh 20x16", 1), ("lsh 20x12", 1))
_LIVE_MS = (100.0, 1_000.0)


def run(name: str, threads: int | None, rows: int, quick: bool, peers: Path | None) -> list[Row]:
    """Run one system in a fresh process, and return its rows. `threads` are Pathway's."""
    environment = dict(os.environ)
    if threads is not None:
        path = os.pathsep.join(str(p) for p in (peers, os.environ.get("PYTHONPATH")) if p)
        environment |= {"PATHWAY_THREADS": str(threads), "PYTHONPATH": path}
    seconds, sizes = (2.0, (1, 256, 2_048)) if quick else (8.0, (1, 16, 256, 2_048, 8_192))
    asked = [str(one) for one in (name, rows, seconds, *sizes)]
    command = module_command("benchmarks.following", *asked)
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    found: list[Row] = [json.loads(line) for line in ended.stdout.splitlines() if line[:1] == "{"]
    if ended.returncode:
        last = ended.stderr.strip().splitlines()[-1:] or ["no message"]
        found.append({"system": name, "rows": rows, "note": f"failed: {last[0][:120]}"})
    for row in found:
        if threads is not None:
            row |= {"system": f"pathway {name}", "threads": threads}
        print(row, flush=True)
    return found


def highest(rows: list[Row], within_ms: float) -> float:
    """Return the most upserts/s whose lists are known in that time, or if none are, of all."""
    live = [row for row in rows if row["p50_ms"] <= within_ms]
    return max(float(row["upserts_per_s"]) for row in live or rows)


def goals_of(rows: int, table: list[Row]) -> list[Goal]:
    done = [row for row in table if row["rows"] == rows and "note" not in row]
    ours = [row for row in done if row["system"] == "tidelens"]
    theirs = [row for row in done if row["system"] != "tidelens"]
    if not theirs:
        return []
    soonest = [min(row["p50_ms"] for row in side) for side in (theirs, ours)]
    return [
        *(
            Goal(
                f"{rows} rows: upserts/s with lists within {within_ms:g} ms / Pathway's best",
                highest(ours, within_ms) / highest(theirs, within_ms),
                5,
                "higher",
            )
            for within_ms in _LIVE_MS
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
    quick = arguments.quick
    table: list[Row] = []
    goals: list[Goal] = []
    for rows in (10_000,) if quick else (10_000, 100_000):
        table += run("tidelens", None, rows, quick, None)
        for name, threads in _PATHWAY if rows > 10_000 else (*_PATHWAY, *_LSH):
            table += run(name, threads, rows, quick, arguments.peers)
        goals += goals_of(rows, table)
    finish("live_vs_pathway", table, goals, arguments.json)


if __name__ == "__main__":
    main()
