"""The ports that a start listens on: each is free, or the running node has it."""

from collections.abc import Sequence
from urllib.parse import urlsplit

from contracts.errors import PortInUse
from contracts.settings import KafkaSettings, Settings
from tidelens.cli.doctor.finding import Finding, from_error, in_thread, ok
from tidelens.runtime.run_file import Runtime

_FIX = "TIDELENS_PORT: another one"


@in_thread
def ports(settings: Settings, kafka: KafkaSettings) -> Sequence[Finding]:
    """Check the ports of the API and of an encoder's /metrics."""
    running = Runtime.read(settings.data)
    api = urlsplit(running.url).port if running else None
    metrics = running.metrics_port if running else None
    given = "encode_metrics_port" in settings.model_fields_set
    return [
        _port(settings, settings.port, "TIDELENS_PORT", api),
        _port(
            settings,
            settings.encode_metrics_port,
            "TIDELENS_ENCODE_METRICS_PORT",
            metrics,
            other_ok=not given,
        ),
    ]


def _port(
    settings: Settings, port: int, variable: str, held: int | None, *, other_ok: bool = False
) -> Finding:
    """Check a port. `held` is that of the running node.

    With `other_ok`, a role whose port is taken listens on another one.
    """
    from tidelens.server.server import listen

    if port == 0:
        return ok("ports", f"{variable}=0: the system chooses a free port")
    if port == held:
        return ok("ports", f"{settings.host}:{port} is the running `up`'s")
    try:
        listen(settings.host, port, option=variable).close()
    except PortInUse as error:
        if other_ok:
            return ok("ports", f"{settings.host}:{port} is taken, /metrics goes to another one")
        return from_error("ports", error, fix=_FIX)
    return ok("ports", f"{settings.host}:{port} is free")
