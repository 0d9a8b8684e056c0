"""`tidelens doctor`: checks whether Tidelens can run here, and says how to fix what fails."""

import asyncio
import logging
import sys
from contextlib import suppress
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click
import orjson

from tidelens.cli.base.command import Command, Example
from tidelens.cli.base.options import (
    Option,
    collection_options,
    json_option,
    model_option,
    snapshots_option,
)
from tidelens.cli.base.terminal import say, say_json

if TYPE_CHECKING:
    from consumers.models.precision import PrecisionChoice
    from consumers.models.tuning.candidate import CandidateResult
    from tidelens.cli.doctor.finding import Finding


@click.command(
    cls=Command,
    examples=[
        Example("tidelens doctor", "Check this machine, and the broker of the running `up`."),
        Example(
            "tidelens doctor --tune --model ./vit-b-32",
            "Measure which precision of a checkpoint is fastest here, and keep it.",
        ),
    ],
)
@click.option(
    "--tune",
    is_flag=True,
    help="Before the checks, measure the model in each precision and keep the best one. This takes "
    "some minutes.",
)
@click.option(
    "--memory-mb",
    cls=Option,
    type=click.IntRange(min=1),
    metavar="MIB",
    default_text="half of the free memory",
    help="Memory that one precision may take during --tune, in MiB.",
)
@model_option
@snapshots_option
@collection_options
@json_option
def doctor(as_json: bool, tune: bool, memory_mb: int | None, **options: Any) -> None:
    """Check whether everything that Tidelens needs works here.

    The checks cover Python, packages, device, memory, disks, ports, model, snapshots, broker,
    topics, control topic and lag. A line that is not ok says what to do. The exit code is 1 if a
    check failed; a warning does not change it.
    """
    from tidelens.cli.doctor.examination import run_checks

    # Where structlog is missing, so are the packages that would log.
    with suppress(ModuleNotFoundError):
        from tidelens.process import logs

        # The table reports what the log would.
        logs.configure("auto", "doctor", level=logging.ERROR)
    given = {name: value for name, value in options.items() if value is not None}
    tuned = _tuned(given, memory_mb, quiet=as_json) if tune else None
    findings = asyncio.run(run_checks(given))
    any_failed = any(finding.state == "failed" for finding in findings)
    if as_json:
        rows = [asdict(finding) for finding in findings]
        answer = {"ok": not any_failed, "findings": rows, **({"tuned": tuned} if tuned else {})}
        say_json(answer, option=orjson.OPT_NON_STR_KEYS)
    else:
        say(*_table(findings))
    if any_failed:
        sys.exit(1)


def _tuned(given: dict[str, Any], memory_mb: int | None, *, quiet: bool) -> dict[str, Any]:
    """Measure each precision, print a row when it is done, and return the whole table."""
    from consumers.models import is_tunable
    from contracts.settings import load
    from tidelens.cli.doctor.machine import free_memory_bytes
    from tidelens.cli.doctor.precision import rows_of, tune_precision

    settings = load(**given)
    if not is_tunable(settings.model):
        raise click.UsageError(
            f"--tune: {settings.model} has one precision; give a checkpoint with --model"
        )

    from consumers.models.tuning.tuner import memory_bytes_default

    def tell(measured: "CandidateResult") -> None:
        if not quiet:
            say(*rows_of(measured))

    budget = memory_mb * 2**20 if memory_mb else memory_bytes_default(free_memory_bytes())
    found = tune_precision(settings, budget, tell)
    if not quiet:
        say(f"best: {_said(found.best) if found.best else 'none, give it more memory'}", "")
    best = asdict(found.best) if found.best else None
    return {"best": best, "table": [asdict(row) for row in found.table]}


def _said(choice: "PrecisionChoice") -> str:
    compiled = ", compiled" if choice.compiled else ""
    at_once = f"{choice.pictures} pictures and {choice.texts} captions at once"
    return f"{choice.precision}{compiled}, {at_once}"


def _table(findings: "list[Finding]") -> list[str]:
    width = max(len(finding.name) for finding in findings)
    return [
        f"{finding.state:7}  {finding.name:{width}}  {finding.detail}"
        + (f"  -> {finding.fix}" if finding.fix else "")
        for finding in findings
    ]
