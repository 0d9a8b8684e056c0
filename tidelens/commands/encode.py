"""`tidelens encode`: one encoder process; start as many as there are partitions."""

import sys
from typing import Any

import click

from tidelens.options import brokers_option, model_option, precision_option, topic_prefix_option


@click.command()
@brokers_option
@topic_prefix_option
@model_option
@precision_option
@click.option("--attached", is_flag=True, hidden=True, help="Take the brokers from stdin.")
@click.option("--report-to", type=int, hidden=True, help="Descriptor of the parent's pipe.")
@click.option("--metrics-listener", type=int, hidden=True, help="Descriptor of a socket.")
def encode(
    brokers: str | None,
    topic_prefix: str | None,
    model: str | None,
    precision: str | None,
    attached: bool,
    report_to: int | None,
    metrics_listener: int | None,
) -> None:
    """Encode published content into vectors, until stopped."""
    from contracts import settings as settings_module
    from tidelens import logs
    from tidelens.acting import acting
    from tidelens.encoding import run_encoder
    from tidelens.reports import Report, Reporter
    from tidelens.role_process import failing_as_logged, run
    from tidelens.threads import end_now

    with failing_as_logged("encode"):
        given: dict[str, Any] = {
            "brokers": brokers,
            "topic_prefix": topic_prefix,
            "model": model,
            "precision": precision,
        }
        if attached:
            # `up` gave us its own settings; it writes run.json only once it is ready.
            settings, kafka = settings_module.load(**given), settings_module.load_kafka()
            logs.configure(settings.log_format, "encode")
        else:
            acts = acting("encode", is_role=True, **given)
            settings, kafka = acts.settings, acts.kafka
        reporter = Reporter(report_to)
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
            report = Report.of(error)
            reporter.tell(report)
            sys.exit(report.exit_code)
        if not done:
            end_now()
