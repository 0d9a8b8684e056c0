"""`tidelens space switch`: lets all nodes answer in the new space."""

import asyncio
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from tidelens.cli.base.command import Command, Example
from tidelens.cli.base.options import collection_options, json_option
from tidelens.cli.base.terminal import say_json
from tidelens.cli.space.active import show_active
from tidelens.cli.space.comparison import show_missing

if TYPE_CHECKING:
    from tidelens.migration.collection import OpenCollection

missing_ok_option = click.option(
    "--missing-ok", is_flag=True, help="Switch even if items are missing in the new space."
)


@click.command(
    cls=Command,
    examples=[
        Example("tidelens space switch", "Let all nodes answer in the new space."),
        Example(
            "tidelens space switch --missing-ok",
            "Do so although the new model could not encode some items.",
        ),
    ],
)
@missing_ok_option
@collection_options
@json_option
def switch(missing_ok: bool, as_json: bool, **collection_given: Any) -> None:
    """Let all nodes answer in the new space.

    Nodes and `up` follow within seconds, and open subscriptions start again with a snapshot. The
    command fails if items are missing in the new space or no encoder keeps it current. The old
    space stays ready for `tidelens space rollback`.
    """
    from tidelens.cli.base.open_collection import open_collection

    async def run() -> None:
        answer: dict[str, Any] = {}
        async with open_collection("space", **collection_given) as collection:
            try:
                await switch_to_candidate(
                    collection, answer, missing_ok=missing_ok, show=not as_json
                )
            finally:
                # If the switch is refused, the answer says which items are missing.
                if as_json and answer:
                    say_json(answer)

    asyncio.run(run())


async def switch_to_candidate(
    collection: "OpenCollection",
    answer: dict[str, Any],
    *,
    missing_ok: bool,
    show: bool,
    missing_shown: bool = False,
) -> None:
    """Switch, and fill `answer`, which is complete even if this raises TidelensError.

    With `show`, print it for people too, without the missing items if those are printed already.
    """
    from tidelens.migration import switch
    from tidelens.runtime.run_file import model_of

    old = await switch.active_space(collection, model_of(collection.settings))
    candidate, sets = await switch.check_switch(collection, old)
    answer |= {"space": candidate.ref.space, "switched": False, **sets.wire()}
    if show and not missing_shown:
        show_missing(sets.wire())
    if not missing_ok:
        switch.require_whole(sets, candidate.ref)
    active = await switch.switch(collection, old, candidate.ref)
    answer |= {"switched": True, "active": asdict(active)}
    if show:
        show_active(active)
