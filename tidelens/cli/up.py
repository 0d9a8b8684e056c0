"""`tidelens up`: everything, on this machine."""

from pathlib import Path
from typing import Any

import click

from tidelens.cli.base.command import Command, Example
from tidelens.cli.base.options import NamedPath, Option, up_options


@click.command(
    cls=Command,
    examples=[
        Example(
            "tidelens up --sample",
            "Start everything and publish sample pictures; then open http://127.0.0.1:8080.",
        ),
        Example(
            "tidelens up --watch pictures --port 9000",
            "Index every picture and caption that appears in a folder.",
        ),
    ],
)
@click.option("--sample", is_flag=True, help="Publish OpenMoji pictures, a few in each second.")
@click.option(
    "--watch",
    type=NamedPath(file_okay=False, exists=True),
    help="Publish the pictures and captions that appear in this folder.",
)
@click.option(
    "--allow-root",
    "allow_roots",
    cls=Option,
    setting="allow_roots",
    default_text="none",
    multiple=True,
    type=NamedPath(file_okay=False, exists=True),
    help="Let file: references point into this folder. May be repeated.",
)
@up_options
def up(
    sample: bool, watch: Path | None, allow_roots: tuple[Path, ...], **settings_given: Any
) -> None:
    """Run broker, encoder, index and API until stopped.

    No broker is started if --brokers names one.
    """
    from contracts import settings as settings_module
    from tidelens.process import logs
    from tidelens.process.role_process import failing_as_logged, run
    from tidelens.runtime.up import run_up

    with failing_as_logged("up"):
        settings = settings_module.load(**settings_given, allow_roots=list(allow_roots) or None)
        if watch is not None:
            # Large pictures of that folder travel by reference.
            roots = [*settings.allow_roots, watch]
            settings = settings.model_copy(update={"allow_roots": roots})
        logs.configure(settings.log_format, "up")
        run(run_up(settings, settings_module.load_kafka(), sample=sample, watch=watch))
