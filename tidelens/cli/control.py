"""`tidelens control`: the records of the control topic, and those that nodes ignore."""

import asyncio
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from tidelens.cli.base.command import Example, Group
from tidelens.cli.base.options import collection_options, json_option
from tidelens.cli.base.terminal import say, say_json

if TYPE_CHECKING:
    from contracts.events.control_record import SpaceRef
    from contracts.events.record import OutRecord
    from streams.registry.control_topic import Control


@click.group(
    cls=Group,
    examples=[
        Example("tidelens control show", "Show which space is active and which records are bad."),
        Example("tidelens control repair", "Write good records over the bad ones."),
    ],
)
def control() -> None:
    """Show and repair the records that all nodes follow.

    The control topic says which space is active, which one is being made, and how many partitions
    the topics have.
    """


@control.command(
    examples=[
        Example("tidelens control show", "Show the control topic of the running `up`."),
        Example(
            "tidelens control show --brokers kafka:9092 --json",
            "Show that of another Kafka, for a program.",
        ),
    ]
)
@collection_options
@json_option
def show(as_json: bool, **collection_given: Any) -> None:
    """Show the spaces and the records that nodes ignore.

    The exit code is 1 if a record is ignored.
    """
    from tidelens.cli.base.open_collection import open_collection

    async def run() -> "Control":
        async with open_collection("control", quiet=True, **collection_given) as collection:
            return await collection.control()

    found = asyncio.run(run())
    if as_json:
        say_json(_wire(found))
    else:
        say(*_lines(found))
    if found.refused:
        sys.exit(1)


@control.command(
    examples=[
        Example("tidelens control repair", "Repair all records that this version knows."),
        Example(
            "tidelens control repair --model starter",
            "Let nodes answer in the space of this model, when no good record says which.",
        ),
    ]
)
@click.option("--model", metavar="MODEL", help="Make the space of this model the active one.")
@click.option(
    "--unknown-keys",
    is_flag=True,
    help="Delete records with keys that this version does not know as well. Do not use it while a "
    "newer version runs, which may have written them.",
)
@collection_options
@json_option
def repair(model: str | None, unknown_keys: bool, as_json: bool, **collection_given: Any) -> None:
    """Write good records over those that nodes ignore.

    The last good record of each key is written again. If no good record of the active space is
    left, --model names the model whose space becomes the active one. It does not check whether that
    space is complete, so use `tidelens space switch` to move nodes to a new space.
    """
    from streams.registry.control_faults import shown_key
    from tidelens.cli.base.open_collection import open_collection
    from tidelens.migration.control_repair import repair as repair_control

    async def run() -> "list[OutRecord]":
        async with open_collection("control", quiet=True, **collection_given) as collection:
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
    from contracts.events.control_record import UNKNOWN_KEY

    active, candidate = found.active, found.candidate
    lines = ["active: " + (_named(active.current) if active else "as the settings of nodes say")]
    if active is not None and active.previous is not None:
        lines.append(f"kept for a rollback: {_named(active.previous)}")
    if candidate is not None:
        state = "still encoded" if candidate.encoded_at is None else "encoded"
        lines.append(f"being made: {_named(candidate.ref)}, {state}")
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
