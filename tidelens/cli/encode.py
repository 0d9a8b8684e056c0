"""`tidelens encode`: one encoder process; start as many as there are partitions."""

import sys
from typing import Any

import click

from tidelens.cli.base.command import Command, Example
from tidelens.cli.base.options import collection_options, model_option, precision_option


@click.command(
    cls=Command,
    examples=[
        Example(
            "tidelens encode --brokers kafka:9092",
            "Start an encoder; start more of them for more speed, up to one for each partition.",
        ),
        Example(
            "tidelens encode --model openai/clip-vit-base-patch32 --precision bfloat16",
            "Encode with a checkpoint of the Hugging Face hub.",
        ),
    ],
)
@model_option
@precision_option
@collection_options
@click.option(
    "--attached", is_flag=True, hidden=True, help="Read the addresses of the brokers from stdin."
)
@click.option("--report-to", type=int, hidden=True, help="Descriptor of the parent's pipe.")
@click.option(
    "--metrics-listener", type=int, hidden=True, help="Descriptor of the socket for /metrics."
)
def encode(
    attached: bool, report_to: int | None, metrics_listener: int | None, **settings_given: Any
) -> None:
    """Encode published content into vectors, until stopped."""
    from contracts import settings as settings_module
    from tidelens.cli.base.collection_choice import command_context
    from tidelens.process import logs
    from tidelens.process.child_reports import ChildReport, ChildReporter
    from tidelens.process.role_process import failing_as_logged, run
    from tidelens.process.threads import end_now
    from tidelens.runtime.encode_role import run_encoder

    with failing_as_logged("encode"):
        if attached:
            # `up` gave us its own settings; it writes run.json only once it is ready.
            settings, kafka = settings_module.load(**settings_given), settings_module.load_kafka()
            logs.configure(settings.log_format, "encode")
        else:
            command = command_context("encode", is_role=True, **settings_given)
            settings, kafka = command.settings, command.kafka
        reporter = ChildReporter(report_to)
        running = run_encoder(
            settings,
            kafka,
            attached=attached,
            reporter=reporter,
            metrics_listener=metrics_listener,
        )
        try:
            done = run(running)
        except Exception as error:
            if not reporter:
                raise
            # The parent reports it, with one line a minute where this happens again and again.
            report = ChildReport.of(error)
            reporter.send(report)
            sys.exit(report.exit_code)
        if not done:
            end_now()
