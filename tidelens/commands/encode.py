"""`tidelens encode`: one encoder process; start as many as there are partitions."""

import asyncio

import click

from tidelens.options import brokers_option, model_option, precision_option, topic_prefix_option


@click.command()
@brokers_option
@topic_prefix_option
@model_option
@precision_option
@click.option("--attached", is_flag=True, hidden=True, help="Take the brokers from stdin.")
def encode(
    brokers: str | None,
    topic_prefix: str | None,
    model: str | None,
    precision: str | None,
    attached: bool,
) -> None:
    """Encode published content into vectors, until stopped."""
    from contracts import settings as settings_module
    from tidelens import logs
    from tidelens.encoding import run_encoder
    from tidelens.runtime import brokers_of
    from tidelens.threads import end_now

    settings = settings_module.load(
        brokers=brokers, topic_prefix=topic_prefix, model=model, precision=precision
    )
    if not attached:
        settings = settings.model_copy(update={"brokers": brokers_of(settings)})
    logs.configure(settings.log_format, "encode")
    if not asyncio.run(run_encoder(settings, settings_module.load_kafka(), attached=attached)):
        end_now()
