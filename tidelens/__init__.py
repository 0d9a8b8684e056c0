"""The commands, the wiring of the roles, and the public client: `tidelens.Client`."""

# This is what typing does, whose import takes a third of the time until the first line runs.
TYPE_CHECKING = False

if TYPE_CHECKING:
    from tidelens.client import Client, Update

__all__ = ["Client", "Update"]


def __getattr__(name: str) -> object:
    """Imported when asked for: the commands need neither HTTP nor WebSockets to start."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from tidelens import client

    return getattr(client, name)
