"""Print and write the results of a benchmark: a table, and JSON with rows and goals."""

import argparse
import os
import platform
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import orjson


@dataclass(frozen=True, slots=True)
class Goal:
    """A goal that an issue names, with the measured value, met or not."""

    name: str
    value: float
    goal: float
    better: Literal["higher", "lower"]

    @property
    def met(self) -> bool:
        return self.value >= self.goal if self.better == "higher" else self.value <= self.goal


def parser(name: str, purpose: str) -> argparse.ArgumentParser:
    """Return a parser of the options that all benchmarks take."""
    made = argparse.ArgumentParser(prog=f"python -m benchmarks.{name}", description=purpose)
    made.add_argument("--quick", action="store_true", help="end within 5 minutes on 2 cores")
    made.add_argument("--json", type=Path, metavar="FILE")
    return made


def machine() -> dict[str, Any]:
    """Return the machine that the figures were taken on, without any name of it."""
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        lines = cpuinfo.read_text().splitlines()
        model = next((li.partition(": ")[2] for li in lines if li.startswith("model name")), model)
    return {"cpu": model, "cores": os.cpu_count(), "python": platform.python_version()}


def finish(
    name: str, rows: Sequence[Mapping[str, Any]], goals: Sequence[Goal], path: Path | None
) -> None:
    """Print both tables; write the JSON document where it was asked for."""
    _table(rows)
    print()
    _table([{**asdict(goal), "met": "yes" if goal.met else "NO"} for goal in goals])
    if path is not None:
        document = {
            "name": name,
            "commit": _commit(),
            "machine": machine(),
            "rows": list(rows),
            "goals": [{**asdict(goal), "met": goal.met} for goal in goals],
        }
        path.write_bytes(
            orjson.dumps(document, option=orjson.OPT_INDENT_2 | orjson.OPT_SERIALIZE_NUMPY)
        )


def _commit() -> str:
    found = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
    )
    return found.stdout.strip() or "unknown"


def _table(rows: Sequence[Mapping[str, Any]]) -> None:
    if not rows:
        return
    # Series are for plots and for the JSON document.
    names = list(dict.fromkeys(name for row in rows for name in row if type(row[name]) is not list))
    lines = [names] + [[_cell(row.get(name)) for name in names] for row in rows]
    widths = [max(len(line[i]) for line in lines) for i in range(len(names))]
    for number, line in enumerate(lines):
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)))
        if number == 0:
            print("  ".join("-" * width for width in widths))


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.4g}" if isinstance(value, float) else str(value)
