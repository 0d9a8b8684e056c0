"""The options of `tidelens rebuild` that became `tidelens space`; the next release drops them."""

from collections.abc import Awaitable, Callable
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from tidelens.cli.base.options import NamedPath, in_order
from tidelens.cli.base.terminal import say, say_json
from tidelens.cli.space.active import show_active, warn_without_encoder
from tidelens.cli.space.comparison import show_report
from tidelens.cli.space.create import make
from tidelens.cli.space.switch import switch_to_candidate

if TYPE_CHECKING:
    from contracts.events.control_record import ActiveSpace
    from tidelens.migration.collection import OpenCollection

_ACTIONS = ("rollback", "give_up_rollback", "abandon")

old_options = in_order(
    click.option("--space", metavar="NEW", hidden=True, help="Name of the space to make."),
    click.option("--model", metavar="MODEL", hidden=True, help="Model that makes the space."),
    click.option(
        "--queries",
        type=NamedPath(dir_okay=False, exists=True),
        hidden=True,
        help="File of texts to compare answers with.",
    ),
    click.option("--switch", is_flag=True, hidden=True, help="Switch to the new space."),
    click.option("--missing-ok", is_flag=True, hidden=True, help="Switch if items are missing."),
    click.option("--rollback", is_flag=True, hidden=True, help="Return to the space before."),
    click.option("--give-up-rollback", is_flag=True, hidden=True, help="Drop the space before."),
    click.option("--abandon", is_flag=True, hidden=True, help="Drop the space that is being made."),
    click.option("--brokers", metavar="HOST:PORT[,...]", hidden=True, help="Servers of Kafka."),
    click.option("--topic-prefix", metavar="PREFIX", hidden=True, help="Beginning of names."),
)


def are_given(options: dict[str, Any]) -> bool:
    """Return whether the old options ask for something. Raises UsageError if they do not fit."""
    actions = [name for name in _ACTIONS if options[name]]
    making = options["space"] is not None or options["model"] is not None
    if making and None in (options["space"], options["model"]):
        raise click.UsageError("--space and --model go together")
    if len(actions) + (making or options["switch"]) > 1:
        raise click.UsageError("one at a time: --space, --switch, --rollback, ...")
    if options["targets"] and (actions or making or options["switch"]):
        raise click.UsageError("--target is about the running node's segments only")
    if options["missing_ok"] and not options["switch"]:
        raise click.UsageError("--missing-ok goes with --switch")
    return bool(actions or making or options["switch"])


async def run_old_options(options: dict[str, Any], *, as_json: bool) -> None:
    """Do what the old options ask for, and name the commands that replace them on stderr."""
    from tidelens.cli.base.open_collection import open_collection

    say(*(f"warning: {line}" for line in _replacements(options)), err=True)
    given = {name: options[name] for name in ("brokers", "topic_prefix", "data")}
    async with open_collection("rebuild", **given) as collection:
        answer: dict[str, Any] = {}
        try:
            await _run(collection, options, answer, as_json=as_json)
        finally:
            # If a switch is refused, the answer says which items are missing.
            if as_json and answer:
                say_json(answer)


def _replacements(options: dict[str, Any]) -> list[str]:
    pairs = {
        "space": ("--space", f"create {options['model']}"),
        "switch": ("--switch", "switch"),
        "rollback": ("--rollback", "rollback"),
        "give_up_rollback": ("--give-up-rollback", "drop SPACE"),
        "abandon": ("--abandon", "drop SPACE"),
    }
    return [
        f"`tidelens rebuild {old}` ends with the next release; run `tidelens space {new}`"
        for name, (old, new) in pairs.items()
        if options[name]
    ]


async def _run(
    collection: "OpenCollection",
    options: dict[str, Any],
    answer: dict[str, Any],
    *,
    as_json: bool,
) -> None:
    from tidelens.migration import switch

    if options["space"] is not None:
        await _make(collection, options, answer, as_json=as_json)
    if options["switch"]:
        await switch_to_candidate(
            collection,
            answer,
            missing_ok=options["missing_ok"],
            show=not as_json,
            missing_shown=options["space"] is not None,
        )
    elif options["abandon"]:
        dropped = await switch.abandon(collection)
        answer["abandoned"] = dropped.space
        if not as_json:
            say(f"gave up {dropped.space}")
    elif options["rollback"]:
        await _change_active(collection, switch.roll_back, answer, as_json=as_json)
    elif options["give_up_rollback"]:
        await _change_active(collection, switch.give_up_rollback, answer, as_json=as_json)


async def _make(
    collection: "OpenCollection",
    options: dict[str, Any],
    answer: dict[str, Any],
    *,
    as_json: bool,
) -> None:
    given = {name: options[name] for name in ("queries", "url", "space")}
    report = await make(collection, options["model"], **given)
    answer |= report.wire()
    if not as_json:
        show_report(report)


async def _change_active(
    collection: "OpenCollection",
    change: "Callable[[OpenCollection], Awaitable[ActiveSpace]]",
    answer: dict[str, Any],
    *,
    as_json: bool,
) -> None:
    active = await change(collection)
    answer["active"] = asdict(active)
    if not as_json:
        show_active(active)
    await warn_without_encoder(collection, active)
