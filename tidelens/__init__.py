"""The commands, the wiring of the roles, and the public client: `tidelens.Client`."""

# The typing module does this too, but its import takes a third of the time until the first line
# runs.
TYPE_CHECKING = False

if TYPE_CHECKING:
    from tidelens.client import Client, Update

    __version__: str

__all__ = ["Client", "Update", "__version__"]


def __getattr__(name: str) -> object:
    """Import the client when it is used: the commands need neither HTTP nor WebSockets to start."""
    if name == "__version__":
        from importlib.metadata import version

        return version("tidelens")
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from tidelens import client

    return getattr(client, name)
