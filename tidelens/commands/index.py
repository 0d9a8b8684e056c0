"""`tidelens index`: an index node that answers vector queries and hosts the streams app."""

from pathlib import Path

import click

from tidelens.commands.tune import tune
from tidelens.options import (
    NamedPath,
    brokers_option,
    model_option,
    snapshots_option,
    topic_prefix_option,
)


@click.group(invoke_without_command=True)
@brokers_option
@topic_prefix_option
@model_option
@snapshots_option
@click.option("--port", type=int, help="Port of the API (8080).")
@click.option("--host", help="Address of the API (127.0.0.1).")
@click.option("--data", type=NamedPath(file_okay=False), help="Data directory.")
@click.pass_context
def index(
    context: click.Context,
    brokers: str | None,
    topic_prefix: str | None,
    model: str | None,
    snapshots: str | None,
    port: int | None,
    host: str | None,
    data: Path | None,
) -> None:
    """Maintain an index and answer searches on it, texts and pictures included.

    With a command, ask a running node instead.
    """
    if context.invoked_subcommand is not None:
        return
    from tidelens.acting import acting
    from tidelens.role_process import failing_as_logged, run
    from tidelens.roles import run_index
    from tidelens.threads import end_now

    with failing_as_logged("index"):
        acts = acting(
            "index",
            is_role=True,
            brokers=brokers,
            topic_prefix=topic_prefix,
            model=model,
            snapshots=snapshots,
            port=port,
            host=host,
            data=data,
        )
        if not run(run_index(acts.settings, acts.kafka)):
            end_now()


index.add_command(tune)
