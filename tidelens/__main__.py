"""The `tidelens` command: registers the subcommands, each imported only when it runs.

Exit codes: 0 done; 1 the command ran and failed; 2 the operator has to change something. A failure
is one clear line on stderr, never a stack trace.
"""

from tidelens.process import pid1

# This comes before every other import, since those take time.
pid1.handle_sigterm()

import importlib
import io
import sys
import threading
from typing import Any

import click

from contracts.characters import escaped
from tidelens.cli.base.command import Example, Group
from tidelens.cli.base.failures import Failure, describe_failure
from tidelens.cli.base.terminal import say
from tidelens.process import blas_threads, extras

# Module of each command, so that `tidelens lag` imports nothing of `up`; in the order of the help.
SECTIONS = {
    "Run": {
        "up": "tidelens.cli.up",
        "encode": "tidelens.cli.encode",
        "index": "tidelens.cli.index",
    },
    "Publish and search": {
        "publish": "tidelens.cli.publish",
        "delete": "tidelens.cli.delete",
        "search": "tidelens.cli.search",
        "watch": "tidelens.cli.watch",
        "classify": "tidelens.cli.classify",
    },
    "Operate": {
        "doctor": "tidelens.cli.doctor.command",
        "config": "tidelens.cli.config",
        "topics": "tidelens.cli.topics",
        "lag": "tidelens.cli.lag",
        "snapshot": "tidelens.cli.snapshot",
        "rebuild": "tidelens.cli.rebuild",
        "space": "tidelens.cli.space.command",
        "digest": "tidelens.cli.digest",
        "dead-letters": "tidelens.cli.dead_letters",
        "control": "tidelens.cli.control",
    },
}
# Columns of the help beside the names of commands and what they do.
_MARGIN = 6
COMMANDS = {name: module for section in SECTIONS.values() for name, module in section.items()}


class LazyGroup(Group):
    """A group whose commands are imported by name when they are used."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(COMMANDS[cmd_name])
        command = getattr(module, cmd_name.replace("-", "_"))
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        width = max(map(len, COMMANDS))
        for section, modules in SECTIONS.items():
            rows = []
            for name in modules:
                command = self.get_command(ctx, name)
                assert command is not None
                limit = formatter.width - width - _MARGIN
                rows.append((name.ljust(width), command.get_short_help_str(limit)))
            with formatter.section(section):
                formatter.write_dl(rows)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command.

        Raises PackageMissing if the command cannot start without an extra that is not here; its
        help is shown all the same.
        """
        name, command, rest = super().resolve_command(ctx, args)
        if name is not None and not (ctx.resilient_parsing or "--help" in rest):
            extras.require(name)
        return name, command, rest

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command. Raises PackageMissing for an import that lacks an extra."""
        try:
            return super().invoke(ctx)
        except ModuleNotFoundError as error:
            missing = extras.explain_import(error, ctx.invoked_subcommand or "")
            if missing is None:
                raise
            raise missing from None


@click.group(
    cls=LazyGroup,
    examples=[
        Example("tidelens up --sample", "Start everything on this machine, with sample pictures."),
        Example('tidelens search "a red cat"', "Search in another terminal."),
    ],
)
@click.version_option(package_name="tidelens", prog_name="tidelens")
def cli() -> None:
    """Search over a live stream of pictures and captions.

    `tidelens COMMAND --help` explains a command.
    """


def main() -> None:
    """Run the console script."""
    blas_threads.wait_asleep()
    before, code = set(threading.enumerate()), 1
    try:
        code = _exit_code()
    finally:
        if set(threading.enumerate()) - before:
            from tidelens.process.threads import leave_behind

            leave_behind(code)
    sys.exit(code)


def _exit_code() -> int:
    """Run the command, and say why it failed if it did."""
    try:
        # Not standalone, so that our errors come here; an exit code is then returned.
        return cli(prog_name="tidelens", standalone_mode=False) or 0
    except SystemExit as exit_:
        return _status_of(exit_)
    except click.exceptions.Exit as exit_:
        return exit_.exit_code
    except click.ClickException as error:
        _show(error)
        return error.exit_code
    except (click.exceptions.Abort, KeyboardInterrupt):
        return 130
    except Exception as error:
        failure = describe_failure(error)
        if failure is None:
            raise
        _write_failure(failure)
        return failure.code


def _status_of(exit_: SystemExit) -> int:
    """Return the exit code. Raise again an exit with a message, which the interpreter prints."""
    if isinstance(exit_.code, str):
        raise exit_
    return int(exit_.code or 0)


def _write_failure(failure: Failure) -> None:
    """Write it as a line of the role's log where that is JSON, or else to the person who asked."""
    logs = sys.modules.get("tidelens.process.logs")
    if logs is not None and logs.is_json_of_role():
        logs.log.error(failure.message, exit_code=failure.code)
    else:
        say(f"tidelens: {failure.message}", err=True)


def _show(error: click.ClickException) -> None:
    """Say what click would print; it may quote a name that a stranger gave to a file."""
    error.message = escaped(error.message)
    shown = io.StringIO()
    error.show(shown)
    say(*shown.getvalue().expandtabs().rstrip("\n").split("\n"), err=True)


if __name__ == "__main__":
    main()
