"""Run the faults that operators met, one scenario of tests/soak/operations after another.

    python -m tests.soak.operators [--only NAME] [--s3 versitygw|s3mock] [--json FILE]

A real Apache Kafka, a real S3 server and the roles as processes are used. Each scenario prints what
was reported where, how long it took to heal, and what was lost. The exit code is 1 if something was
lost or a scenario failed.
"""

import argparse
import asyncio
import logging
import sys
import tempfile
import time
import traceback
from pathlib import Path

import orjson

from tests.soak.operations import Ground, Scenario, scenarios

_SCENARIO_S = 600.0


async def played(title: str, scenario: Scenario, folder: Path, s3_kind: str) -> dict[str, object]:
    """Run one scenario to its end; a failure is a row too, so that the next ones still run."""
    began = time.monotonic()
    row: dict[str, object] = {"title": title}
    ground = Ground(folder, s3_kind)
    try:
        async with ground.stack, asyncio.timeout(_SCENARIO_S):
            outcome = await scenario(ground)
        row |= {"reported": outcome.reported, "healed_s": outcome.healed_s, "lost": outcome.lost}
    except (Exception, ExceptionGroup) as fault:
        traceback.print_exc()
        row |= {"failed": f"{type(fault).__name__}: {fault}"}
    return row | {"took_s": round(time.monotonic() - began, 1)}


def shown(name: str, row: dict[str, object]) -> str:
    lines = [f"{name}: {row['title']} ({row['took_s']} s)"]
    if "failed" in row:
        return "\n".join([*lines, f"  FAILED: {row['failed']}"])
    lines += [f"  {line}" for line in row["reported"]]  # type: ignore[attr-defined]
    healed = row["healed_s"]
    lines.append("  needs the operator" if healed is None else f"  healed after {healed:.1f} s")
    return "\n".join([*lines, f"  lost: {row['lost']}"])


async def soak(names: list[str], s3_kind: str, folder: Path) -> dict[str, dict[str, object]]:
    every = scenarios()
    rows = {}
    for name in names or sorted(every):
        own = folder / name
        own.mkdir()
        rows[name] = await played(*every[name], own, s3_kind)
        print(shown(name, rows[name]), flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", action="append", default=[], choices=sorted(scenarios()))
    parser.add_argument("--s3", choices=("versitygw", "s3mock"), default="versitygw")
    parser.add_argument("--folder", type=Path, help="keep the logs here")
    parser.add_argument("--json", type=Path, metavar="FILE")
    arguments = parser.parse_args()
    # The scenarios take brokers away, which aiokafka reports at length.
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.folder or Path(temporary)
        rows = asyncio.run(soak(arguments.only, arguments.s3, folder))
    if arguments.json:
        arguments.json.write_bytes(orjson.dumps(rows, option=orjson.OPT_INDENT_2))
    bad = [name for name, row in rows.items() if "failed" in row or row["lost"]]
    if bad:
        sys.exit(f"lost or failed: {', '.join(bad)}")


if __name__ == "__main__":
    main()
