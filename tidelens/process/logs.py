"""Structured logs of Tidelens and its libraries on stderr: for people on a terminal, or JSON."""

import logging
import sys
import threading
from types import TracebackType
from typing import Any, Literal, get_args

import structlog

from contracts.characters import escaped
from contracts.settings import variables
from tidelens.process.log_limits import LimitedHandler

log = structlog.get_logger(__name__)

Form = Literal["auto", "human", "json"]
ROLES = ("encode", "index", "up", "query")

_SHARED = (
    structlog.contextvars.merge_contextvars,
    structlog.stdlib.add_log_level,
    structlog.stdlib.add_logger_name,
    structlog.processors.TimeStamper(fmt="iso", utc=True),
    structlog.stdlib.ExtraAdder(),
)

_OF_LINES = ("exception", "stack")

# They report a broker's absence several times a second; Tidelens's own lines report it once.
_NOISY = ("aiokafka", "faust", "mode", "httpx", "httpcore", "uvicorn", "faiss", "jgo")

# multiprocessing starts the resource tracker, and only a warning filter reaches its output.
_QUIET = "ignore::UserWarning:multiprocessing.resource_tracker"


class _Handler(LimitedHandler):
    """The handler that `configure` installs, with its form and the role whose log it writes."""

    human = False
    role = ""


def _handler() -> _Handler | None:
    handlers = logging.getLogger().handlers
    return next((one for one in handlers if isinstance(one, _Handler)), None)


def is_of(role: str) -> bool:
    """Return whether the log is configured, and is that of `role`."""
    handler = _handler()
    return handler is not None and handler.role == role


def is_json_of_role() -> bool:
    """Return whether this is the log of a role whose lines go to a program, not to a person."""
    handler = _handler()
    return handler is not None and not handler.human and handler.role in ROLES


def configure(form: str, role: str, *, level: int = logging.INFO) -> None:
    """Write all log lines, those of libraries too, by structlog, with `role` in every line.

    `form` is a Form; another word, which the settings refuse, is `auto` here.
    """
    if form not in get_args(Form):
        form = "auto"
    human = form == "human" or (form == "auto" and sys.stderr.isatty())
    renderer = (
        structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
        if human
        else structlog.processors.JSONRenderer()
    )

    def add_role(
        _: object, __: str, event: structlog.typing.EventDict
    ) -> structlog.typing.EventDict:
        # This is not a context variable, which threads of a library would not have.
        event.setdefault("role", role)
        return event

    shared = (*_SHARED, add_role)
    structlog.configure(
        processors=[
            *shared,
            structlog.processors.format_exc_info,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    handler = _Handler(sys.stderr)
    handler.human, handler.role = human, role
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
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
    # Here, since settings are read before anything can be logged.
    warn_of_variables()


def configure_process(form: str, role: str) -> None:
    """Configure the log of a child process, and send its uncaught errors there too."""
    configure(form, role)
    catch_all()


def catch_all() -> None:
    """Log uncaught errors and warnings if the log is JSON; Python would print many lines."""
    if not is_json_of_role():
        return
    logging.captureWarnings(True)

    def of_main(
        error_type: type[BaseException], error: BaseException, trace: TracebackType | None
    ) -> None:
        log.critical("an error ends the process", error=repr(error), exc_info=error)

    def of_thread(args: threading.ExceptHookArgs) -> None:
        if args.exc_type is not SystemExit:
            name = args.thread.name if args.thread is not None else None
            log.error("an error ended a thread", thread=name, exc_info=args.exc_value)

    def of_nobody(args: Any) -> None:
        what = args.err_msg or "an error that nobody could catch"
        log.error(what, of=repr(args.object), exc_info=args.exc_value)

    sys.excepthook, threading.excepthook, sys.unraisablehook = of_main, of_thread, of_nobody
    if _QUIET not in sys.warnoptions:
        sys.warnoptions.append(_QUIET)


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
    if ignored := variables().kubernetes:
        log.warning("variables that Kubernetes made for a service are ignored", names=ignored)
