"""Options that several commands share. All default to None, so that the environment applies."""

from pathlib import Path
from typing import Any

import click


class NamedPath(click.Path):
    """A path that is not empty: `$unset` in a shell would stand for the current folder."""

    def __init__(self, **rules: Any) -> None:
        super().__init__(path_type=Path, **rules)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if value == "":
            self.fail("want a path, got an empty one; is a shell variable unset?", param, ctx)
        return super().convert(value, param, ctx)


brokers_option = click.option(
    "--brokers",
    metavar="HOST:PORT[,...]",
    help="Kafka's bootstrap servers (TIDELENS_BROKERS; else those of the running `up`).",
)
topic_prefix_option = click.option(
    "--topic-prefix",
    metavar="PREFIX",
    help="Starts every topic and group; ends in a dot (TIDELENS_TOPIC_PREFIX; tidelens.).",
)
model_option = click.option(
    "--model",
    metavar="MODEL",
    help="`starter`, a folder, or a Hugging Face hub name (TIDELENS_MODEL; starter).",
)
precision_option = click.option(
    "--precision",
    type=click.Choice(["auto", "float32", "bfloat16", "float16", "int8"]),
    help="Precision of a checkpoint's numbers (TIDELENS_PRECISION; auto: as measured).",
)
url_option = click.option(
    "--url", metavar="URL", help="Address of the API; else that of the running `up`."
)
snapshots_option = click.option(
    "--snapshots",
    metavar="URL",
    help="file:PATH or s3://BUCKET/PREFIX (TIDELENS_SNAPSHOTS; else the data directory).",
)
json_option = click.option("--json", "as_json", is_flag=True, help="Answer in JSON.")
