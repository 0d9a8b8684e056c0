"""The options that several commands share.

Those that override a setting default to None, so that the environment applies.
"""

from collections.abc import Callable
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


class Option(click.Option):
    """An option whose help shows the variable and the default of the setting that it overrides.

    Click never reads that variable. contracts.settings does, and checks it like all others.
    `default_text` replaces the default that is shown.
    """

    def __init__(
        self,
        *declarations: Any,
        setting: str | None = None,
        default_text: str | None = None,
        **attributes: Any,
    ) -> None:
        super().__init__(*declarations, **attributes)
        self.setting = setting
        self.default_text = default_text

    def get_help_extra(self, ctx: click.Context) -> Any:
        """Return what help shows in brackets behind the text of the option."""
        extra: dict[str, Any] = {}
        if self.setting is not None:
            from contracts.settings import Settings
            from contracts.settings.environment import variable_of

            extra["envvars"] = (variable_of(Settings, self.setting),)
            default = Settings.model_fields[self.setting].get_default(call_default_factory=True)
            if default is not None:
                extra["default"] = str(default)
        if self.default_text is not None:
            extra["default"] = self.default_text
        return {**super().get_help_extra(ctx), **extra}


def in_order(*options: Callable[..., Any]) -> Callable[..., Any]:
    """Return one decorator for several options, which help lists in this order."""

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


def _brokers_option(default_text: str) -> Callable[..., Any]:
    return click.option(
        "--brokers",
        cls=Option,
        setting="brokers",
        default_text=default_text,
        metavar="HOST:PORT[,...]",
        help="Bootstrap servers of Kafka.",
    )


topic_prefix_option = click.option(
    "--topic-prefix",
    cls=Option,
    setting="topic_prefix",
    metavar="PREFIX",
    help="Beginning of the names of all topics and groups. It ends in a dot.",
)
data_option = click.option(
    "--data",
    cls=Option,
    setting="data",
    type=NamedPath(file_okay=False),
    help="Data directory. A running `up` is found by its file run.json there.",
)
model_option = click.option(
    "--model",
    cls=Option,
    setting="model",
    metavar="MODEL",
    help="Model that makes the vectors: `starter`, a folder, or the name of a checkpoint on the "
    "Hugging Face hub.",
)
precision_option = click.option(
    "--precision",
    cls=Option,
    setting="precision",
    type=click.Choice(["auto", "float32", "bfloat16", "float16", "int8"]),
    help="Numeric precision of the model. `auto` uses the one that `tidelens doctor --tune` "
    "found, or a 2-second probe.",
)
snapshots_option = click.option(
    "--snapshots",
    cls=Option,
    setting="snapshots",
    default_text="the data directory",
    metavar="URL",
    help="Store of the snapshots, file:PATH or s3://BUCKET/PREFIX.",
)
url_option = click.option(
    "--url",
    cls=Option,
    default_text="that of the running `up`",
    metavar="URL",
    help="Address of the node to ask.",
)
json_option = click.option(
    "--json", "as_json", is_flag=True, help="Print the answer as JSON, on one line."
)

collection_options = in_order(
    _brokers_option("those of the running `up`"), topic_prefix_option, data_option
)
"""The options that say which collection a command acts on."""

node_options = in_order(url_option, data_option)
"""The options that say which node a command asks."""

_serving_options = in_order(
    click.option(
        "--host",
        cls=Option,
        setting="host",
        metavar="ADDRESS",
        help="Address that the API and the page listen on.",
    ),
    click.option(
        "--port",
        cls=Option,
        setting="port",
        type=int,
        metavar="PORT",
        help="Port that the API and the page listen on.",
    ),
    model_option,
    snapshots_option,
)

index_options = in_order(_serving_options, collection_options)
"""The options of an index node."""

up_options = in_order(
    _serving_options,
    precision_option,
    _brokers_option("a broker that `up` starts itself"),
    topic_prefix_option,
    data_option,
)
"""The options of `up`, which is an index node with an encoder and a broker of its own."""
