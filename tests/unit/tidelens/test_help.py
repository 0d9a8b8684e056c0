"""The help of every command, as a newcomer reads it: complete, in sentences, and with examples."""

import inspect
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from contracts.settings import Settings
from contracts.settings.environment import variable_of
from tests.kits.docstrings import text_faults
from tidelens.__main__ import cli
from tidelens.cli.base.command import Argument, Command, Group
from tidelens.cli.base.options import Option

COLUMNS = 80


def walk(context: click.Context) -> Iterator[click.Context]:
    """Yield the contexts of a command and of all commands below it."""
    yield context
    command = context.command
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            below = command.get_command(context, name)
            assert below is not None
            settings = below.context_settings
            yield from walk(click.Context(below, parent=context, info_name=name, **settings))


TOP = click.Context(cli, info_name="tidelens", terminal_width=COLUMNS, **cli.context_settings)
ALL = list(walk(TOP))
EACH = pytest.mark.parametrize("context", ALL, ids=lambda context: context.command_path)


def require_sentences(text: str, *, verb: bool) -> None:
    """Hold a help text to the rules of docstrings; each paragraph is of whole sentences."""
    assert list(text_faults(inspect.cleandoc(text), function=verb)) == []
    for paragraph in re.split(r"\n\s*\n", inspect.cleandoc(text)):
        assert re.match("[A-Z`-].*[.]$", paragraph, re.DOTALL), paragraph


def own_parameters(context: click.Context) -> list[click.Parameter]:
    names = {"help", "version"}
    return [one for one in context.command.get_params(context) if one.name not in names]


@EACH
def test_every_command_is_of_our_class_and_says_what_it_does(context: click.Context) -> None:
    assert isinstance(context.command, Command | Group)
    require_sentences(context.command.help or "", verb=True)


@EACH
def test_every_option_and_argument_is_explained(context: click.Context) -> None:
    for parameter in own_parameters(context):
        assert isinstance(parameter, click.Option | Argument), parameter
        require_sentences(parameter.help or "", verb=False)
        if isinstance(parameter, Argument):
            assert parameter.help in " ".join(context.get_help().split())


@EACH
def test_no_first_line_is_cut_in_a_list_of_commands(context: click.Context) -> None:
    listed = context.get_help().partition("\n\n")[2]
    assert not re.search(r"\w\.\.\.$", listed, re.MULTILINE)


@EACH
def test_no_line_is_wider_than_a_terminal(context: click.Context) -> None:
    assert max(map(len, context.get_help().splitlines())) <= COLUMNS


@EACH
def test_defaults_are_shown(context: click.Context) -> None:
    for parameter in own_parameters(context):
        if not isinstance(parameter, click.Option) or parameter.hidden or parameter.is_flag:
            continue
        default = parameter.get_default(context, call=False)
        if parameter.multiple and default in (None, ()):
            default = None
        known = getattr(parameter, "setting", None) or getattr(parameter, "default_text", None)
        if isinstance(default, str | int | float) or known:
            record = parameter.get_help_record(context)
            assert record is not None and "default: " in record[1], parameter


@EACH
def test_the_variables_of_settings_are_shown_and_not_read(
    context: click.Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    fields = set(Settings.model_fields)
    for parameter in own_parameters(context):
        setting = parameter.setting if isinstance(parameter, Option) else None
        if setting is None:
            continue
        assert setting in fields
        variable = variable_of(Settings, setting)
        assert variable in " ".join(context.get_help().split())
        # TIDELENS_PORT may be an address that Kubernetes made; only the settings know.
        monkeypatch.setenv(variable, "tcp://10.0.0.1:8080")
        assert parameter.value_from_envvar(context) is None


@EACH
def test_two_examples_each_of_which_the_command_takes(
    context: click.Context, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert isinstance(context.command, Command | Group)
    assert len(context.command.examples) == 2
    monkeypatch.chdir(tmp_path)
    for name in ("cat.png", "labels.txt", "queries.txt", "items.jsonl"):
        (tmp_path / name).write_text("a\n")
    (tmp_path / "pictures").mkdir()
    for example in context.command.examples:
        require_sentences(example.meaning, verb=True)
        assert len(example.line) <= COLUMNS - 2
        assert example.line in context.get_help()
        assert context.command_path in example.line
        parse(example.line)


def parse(line: str) -> None:
    """Parse a command line down to its last command, without running it."""
    words = shlex.split(line)
    while re.fullmatch(r"[A-Z_]+=.*", words[0]):
        words.pop(0)
    assert words.pop(0) == "tidelens"
    command: click.Command = cli
    context = cli.make_context("tidelens", words)
    while isinstance(command, click.Group):
        rest = [*context._protected_args, *context.args]
        if not rest:
            assert command.invoke_without_command or command.no_args_is_help
            return
        name, below, rest = command.resolve_command(context, rest)
        assert below is not None
        command = below
        context = below.make_context(name, rest, parent=context)
