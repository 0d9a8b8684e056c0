"""`tidelens up`: everything, on this machine."""

from pathlib import Path

import click

from tidelens.options import (
    NamedPath,
    brokers_option,
    model_option,
    precision_option,
    snapshots_option,
    topic_prefix_option,
)


@click.command()
@brokers_option
@topic_prefix_option
@model_option
@precision_option
@snapshots_option
@click.option("--port", type=int, help="Port of the API and the page (8080).")
@click.option("--host", help="Address of the API (127.0.0.1).")
@click.option("--data", type=NamedPath(file_okay=False), help="Data directory.")
@click.option("--sample", is_flag=True, help="Publish OpenMoji pictures, a few a second.")
@click.option(
    "--watch",
    type=NamedPath(file_okay=False, exists=True),
    help="Publish what appears in this folder.",
)
@click.option(
    "--allow-root",
    "allow_roots",
    multiple=True,
    type=NamedPath(file_okay=False, exists=True),
    help="Let file: references point into this folder; may be repeated.",
)
def up(
    brokers: str | None,
    topic_prefix: str | None,
    model: str | None,
    precision: str | None,
    snapshots: str | None,
    port: int | None,
    host: str | None,
    data: Path | None,
    sample: bool,
    watch: Path | None,
    allow_roots: tuple[Path, ...],
) -> None:
    """Run broker, encoder, index and API until stopped."""
    from contracts import settings as settings_module
    from tidelens import logs
    from tidelens.role_process import failing_as_logged, run
    from tidelens.up import run_up

    with failing_as_logged("up"):
        settings = settings_module.load(
            brokers=brokers,
            topic_prefix=topic_prefix,
            model=model,
            precision=precision,
            snapshots=snapshots,
            port=port,
            host=host,
            data=data,
            allow_roots=list(allow_roots) or None,
        )
        if watch is not None:
            # Large pictures of that folder travel by reference.
            roots = [*settings.allow_roots, watch]
            settings = settings.model_copy(update={"allow_roots": roots})
        logs.configure(settings.log_format, "up")
        run(run_up(settings, settings_module.load_kafka(), sample=sample, watch=watch))
