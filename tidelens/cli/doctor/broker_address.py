"""The broker that the checks ask: the one that is set, or that of the running `up`."""

from contracts.settings import Settings
from tidelens.process.threads import in_daemon_thread
from tidelens.runtime.run_file import Runtime


async def broker_address(settings: Settings) -> tuple[str | None, str]:
    """Return the address of the broker, or None, and the source of the address."""
    if settings.brokers:
        return settings.brokers, "as set"
    running = await in_daemon_thread(lambda: Runtime.read(settings.data))
    return (running.brokers, "the running `up`'s") if running else (None, "")
