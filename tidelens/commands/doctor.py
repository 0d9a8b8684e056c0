"""`tidelens doctor`: what is in the way of running here, with a fix for each."""

import asyncio
import logging
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING

import click
import orjson

from tidelens.options import (
    brokers_option,
    json_option,
    model_option,
    snapshots_option,
    topic_prefix_option,
)

if TYPE_CHECKING:
    from tidelens.doctor.finding import Finding


@click.command()
@brokers_option
@topic_prefix_option
@model_option
@snapshots_option
@json_option
def doctor(as_json: bool, **options: str | None) -> None:
    """Check Python, packages, device, broker and topics, bucket, model, disk and ports.

    A line for each, with what to do where something is wrong. Exit code 1 when a check failed;
    a warning is none.
    """
    from tidelens import logs
    from tidelens.doctor.examination import examined

    # The table says it.
    logs.configure("auto", "doctor", level=logging.ERROR)
    given = {name: value for name, value in options.items() if value is not None}
    findings = asyncio.run(examined(given))
    any_failed = any(finding.state == "failed" for finding in findings)
    if as_json:
        rows = [asdict(finding) for finding in findings]
        click.echo(orjson.dumps({"ok": not any_failed, "findings": rows}))
    else:
        click.echo("\n".join(_table(findings)))
    if any_failed:
        sys.exit(1)


def _table(findings: "list[Finding]") -> list[str]:
    width = max(len(finding.name) for finding in findings)
    return [
        f"{finding.state:7}  {finding.name:{width}}  {finding.detail}"
        + (f"  -> {finding.fix}" if finding.fix else "")
        for finding in findings
    ]
