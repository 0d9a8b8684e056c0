"""The lines that commands print about the active space."""

from typing import TYPE_CHECKING

from tidelens.cli.base.terminal import say

if TYPE_CHECKING:
    from contracts.events.control_record import ActiveSpace
    from tidelens.migration.collection import OpenCollection


def show_active(active: "ActiveSpace") -> None:
    """Print which space is active, and which one is kept for a rollback."""
    other = f"; {active.previous.space} is kept for a rollback" if active.previous else ""
    say(f"active: {active.current.space}{other}")


async def warn_without_encoder(collection: "OpenCollection", active: "ActiveSpace") -> None:
    """Warn if no encoder keeps the active space current."""
    from tidelens.migration.switch import has_encoder

    current = active.current
    if not await has_encoder(collection, current):
        say(
            f"warning: no encoder keeps {current.space} current; "
            f"start `tidelens encode --model {current.model}`",
            err=True,
        )
