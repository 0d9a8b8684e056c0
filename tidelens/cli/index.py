"""`tidelens index`: an index node that answers searches and hosts the streams app."""

from typing import Any

import click

from tidelens.cli.base.command import Example, Group
from tidelens.cli.base.options import index_options
from tidelens.cli.tune import tune


@click.group(
    cls=Group,
    invoke_without_command=True,
    examples=[
        Example(
            "tidelens index --brokers kafka:9092 --host 0.0.0.0 --port 8080",
            "Start a node that other machines can reach.",
        ),
        Example("tidelens index tune", "Ask the running node how well its index is tuned."),
    ],
)
@index_options
@click.pass_context
def index(context: click.Context, /, **settings_given: Any) -> None:
    """Run an index node, which answers searches, until stopped.

    The node maintains an index of everything that encoders have published, and serves the API and
    the page. With a command, a running node is asked instead.
    """
    if context.invoked_subcommand is not None:
        return
    from tidelens.cli.base.collection_choice import command_context
    from tidelens.process.role_process import failing_as_logged, run
    from tidelens.process.threads import end_now
    from tidelens.runtime.index_role import run_index

    with failing_as_logged("index"):
        command = command_context("index", is_role=True, **settings_given)
        if not run(run_index(command.settings, command.kafka)):
            end_now()


index.add_command(tune)
