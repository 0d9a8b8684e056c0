"""The commands, the wiring of the roles, and the public client: `tidelens.Client`."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tidelens.client import Client, Update

__all__ = ["Client", "Update"]


def __getattr__(name: str) -> Any:
    """Imported when asked for: the commands need neither HTTP nor WebSockets to start."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from tidelens import client

    return getattr(client, name)
