"""`tidelens control`: what the control topic says, and what of it nodes ignore."""

import asyncio
import sys
from collections.abc import Callable
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from tidelens.options import brokers_option, json_option, topic_prefix_option
from tidelens.terminal import say, say_json

if TYPE_CHECKING:
    from contracts.control import SpaceRef
    from contracts.records import OutRecord
    from streams.control import Control


@click.group()
def control() -> None:
    """Show what the control topic says, and repair it."""


def _connected(command: Callable[..., None]) -> Callable[..., None]:
    for option in (json_option, topic_prefix_option, brokers_option):
        command = option(command)
    return command


@control.command()
@_connected
def show(brokers: str | None, topic_prefix: str | None, as_json: bool) -> None:
    """Show the active space, the one that is being made, and the records that nodes ignore.

    The exit code is 1 where a record is ignored.
    """
    from tidelens.opening import open_collection

    async def run() -> "Control":
        async with open_collection("control", brokers, topic_prefix, quiet=True) as collection:
            return await collection.control()

    found = asyncio.run(run())
    if as_json:
        say_json(_wire(found))
    else:
        say(*_lines(found))
    if found.refused:
        sys.exit(1)


@control.command()
@click.option("--model", metavar="MODEL", help="Make this model's space the active one.")
@click.option(
    "--unknown-keys",
    is_flag=True,
    help="Also delete records with keys that this version does not know. Do not use it while a "
    "newer version runs, since they may be its own.",
)
@_connected
def repair(
    model: str | None,
    unknown_keys: bool,
    brokers: str | None,
    topic_prefix: str | None,
    as_json: bool,
) -> None:
    """Write the last good records over those that nodes ignore.

    Where no good record of the active space is left, --model names the model whose space is to be
    active. --model does not check whether that space is complete, so use `rebuild --switch` to
    move nodes to a new space.
    """
    from streams.control_faults import shown_key
    from tidelens.opening import open_collection
    from tidelens.repairing import repair as repair_control

    async def run() -> "list[OutRecord]":
        async with open_collection("control", brokers, topic_prefix, quiet=True) as collection:
            return await repair_control(collection, model, unknown_keys=unknown_keys)

    written = [
        {"key": shown_key(record.key), "value": (record.value or b"").decode() or None}
        for record in asyncio.run(run())
    ]
    if as_json:
        say_json({"written": written})
        return
    for one in written:
        say(f"wrote {one['key']}: {one['value'] or 'none'}")
    if not written:
        say("nothing to repair")


def _wire(found: "Control") -> dict[str, Any]:
    return {
        "active": None if found.active is None else asdict(found.active),
        "candidate": None if found.candidate is None else asdict(found.candidate),
        "refused": [asdict(one) for one in found.refused],
    }


def _lines(found: "Control") -> list[str]:
    from contracts.control import UNKNOWN_KEY

    active, candidate = found.active, found.candidate
    lines = ["active: " + (_named(active.current) if active else "as the settings of nodes say")]
    if active is not None and active.previous is not None:
        lines.append(f"kept for a rollback: {_named(active.previous)}")
    if candidate is not None:
        state = "still encoded" if candidate.encoded_at is None else "encoded"
        lines.append(f"being made: {_named(candidate.made)}, {state}")
    lines += [f"ignored: {one}" for one in found.refused]
    if any(one.fault != UNKNOWN_KEY for one in found.refused):
        lines.append("`tidelens control repair` writes good records over the ignored ones")
    if found.unknown_keys:
        lines.append(
            "`tidelens control repair --unknown-keys` deletes those with keys that this version "
            "does not know; a newer version may have written them"
        )
    return lines


def _named(ref: "SpaceRef") -> str:
    return f"{ref.space} of model {ref.model} ({ref.fingerprint})"
