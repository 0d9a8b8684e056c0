"""The classes of all commands: their help explains arguments, shows defaults and gives examples."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import click

_CONTEXT_SETTINGS = {"show_default": True}


class Example(NamedTuple):
    """A command line that works as it stands, and a sentence that says what it does."""

    line: str
    meaning: str


class Argument(click.Argument):
    """An argument with a help text of its own, which click does not offer."""

    def __init__(self, *declarations: Any, help: str, **attributes: Any) -> None:
        super().__init__(*declarations, **attributes)
        self.help = help


class Command(click.Command):
    """A command whose help lists its arguments and ends in examples."""

    def __init__(
        self, *arguments: Any, examples: Sequence[Example] = (), **attributes: Any
    ) -> None:
        super().__init__(*arguments, **_with_settings(attributes))
        self.examples = tuple(examples)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        _write_arguments(self, ctx, formatter)
        super().format_options(ctx, formatter)

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        _write_examples(self.examples, formatter)


class Group(click.Group):
    """A group of commands whose help ends in examples."""

    command_class = Command

    def __init__(
        self, *arguments: Any, examples: Sequence[Example] = (), **attributes: Any
    ) -> None:
        super().__init__(*arguments, **_with_settings(attributes))
        self.examples = tuple(examples)

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        _write_examples(self.examples, formatter)


def _with_settings(attributes: dict[str, Any]) -> dict[str, Any]:
    given = attributes.get("context_settings") or {}
    return {**attributes, "context_settings": {**_CONTEXT_SETTINGS, **given}}


def _write_arguments(
    command: click.Command, ctx: click.Context, formatter: click.HelpFormatter
) -> None:
    rows = [
        (parameter.human_readable_name, parameter.help)
        for parameter in command.get_params(ctx)
        if isinstance(parameter, Argument)
    ]
    if rows:
        with formatter.section("Arguments"):
            formatter.write_dl(rows)


def _write_examples(examples: Sequence[Example], formatter: click.HelpFormatter) -> None:
    if not examples:
        return
    with formatter.section("Examples"):
        for number, example in enumerate(examples):
            if number:
                formatter.write_paragraph()
            # A wrapped line could not be copied into a shell.
            formatter.write(f"{'':{formatter.current_indent}}{example.line}\n")
            with formatter.indentation():
                formatter.write_text(example.meaning)
