"""Structured logs: readable on a terminal, JSON else, on stderr, the libraries' included."""

import logging
import sys
from typing import Literal

import structlog

from contracts.characters import escaped
from contracts.settings import variables
from tidelens.log_limits import LimitedHandler

log = structlog.get_logger(__name__)

_SHARED = (
    structlog.contextvars.merge_contextvars,
    structlog.stdlib.add_log_level,
    structlog.stdlib.add_logger_name,
    structlog.processors.TimeStamper(fmt="iso", utc=True),
    structlog.stdlib.ExtraAdder(),
)

_OF_LINES = ("exception", "stack")

# They repeat a broker's absence several times a second; our own lines say it once.
_NOISY = ("aiokafka", "faust", "mode", "httpx", "httpcore", "uvicorn", "faiss", "jgo")


def configure(
    form: Literal["auto", "human", "json"], role: str, *, level: int = logging.INFO
) -> None:
    """Send everything through structlog's renderer; `role` stands in every line."""
    human = form == "human" or (form == "auto" and sys.stderr.isatty())
    renderer = (
        structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
        if human
        else structlog.processors.JSONRenderer()
    )
    structlog.configure(
        processors=[
            *_SHARED,
            structlog.processors.format_exc_info,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    handler = LimitedHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=_SHARED,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                *([_escape] if human else []),
                renderer,
            ],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(level)
    for name in _NOISY:
        logging.getLogger(name).setLevel(logging.CRITICAL)
    # uvicorn gives its own loggers levels of their own.
    logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)
    structlog.contextvars.bind_contextvars(role=role)
    # Here, since settings are read before anything can be logged.
    warn_of_variables()


def _escape(_: object, __: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    """Escape what would break a line on a terminal; tracebacks keep their lines, indented.

    JSON needs none of this, since all but ASCII is escaped there.
    """
    for name, value in event.items():
        if name in _OF_LINES and isinstance(value, str):
            event[name] = "\n".join(f"    {escaped(line)}" for line in value.split("\n"))
        elif isinstance(value, str):
            event[name] = escaped(value)
    return event


def warn_of_variables() -> None:
    """Warn of variables that look like settings, but were made by Kubernetes."""
    if passed_over := variables().of_kubernetes:
        log.warning("variables made by Kubernetes for a service are passed over", names=passed_over)
