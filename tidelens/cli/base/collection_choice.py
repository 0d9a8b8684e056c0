"""The collection that a command acts on: that of the running `up`, as DATA/run.json describes it.

Values that are not set come from there, so that a command in another terminal needs no options. A
value that is set and differs is refused, since the command would act on a collection that no node
serves here. The file never has secrets, only the names of the variables that have them.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from contracts import settings as settings_module
from contracts.errors import ConfigurationError
from contracts.settings import KafkaSettings, Settings
from contracts.settings.environment import variable_of
from contracts.topics import Names
from tidelens.cli.base.terminal import say
from tidelens.runtime.run_file import DEFAULT_BROKERS, Runtime, url_of

if TYPE_CHECKING:
    from streams.kafka.connection import KafkaConnection
    from tidelens.client import Client

T = TypeVar("T")

# Another value of these means another collection, or loses records of this one.
_IDENTITY = ("topic_prefix", "partitioner")
# The operator may choose another value of these; the one of `up` holds otherwise.
_OF_ROLES = ("record_bytes_max",)
_OF_COMMANDS = (
    *_OF_ROLES,
    "partitions",
    "replication_factor",
    "min_insync_replicas",
    "snapshots",
    "shard",
    "replica",
)
_FILES = ("ssl_cafile", "ssl_certfile", "ssl_keyfile")
_SECRETS = ("sasl_username", "sasl_password", "ssl_password")


def collection_of(settings: Settings) -> dict[str, Any]:
    """Return what run.json says of the collection: the settings that commands must share."""
    found = {name: getattr(settings, name) for name in (*_IDENTITY, *_OF_COMMANDS)}
    kind, _, path = (settings.snapshots or "").partition(":")
    if kind == "file":
        found["snapshots"] = f"file:{Path(path).resolve()}"
    return found


def security_of(kafka: KafkaSettings) -> dict[str, Any]:
    """Return what run.json says of the connection to Kafka: files and variables by name."""
    files = {name: getattr(kafka, name) for name in _FILES}
    return {
        "security_protocol": kafka.security_protocol,
        "sasl_mechanism": kafka.sasl_mechanism,
        **{name: None if path is None else str(path.resolve()) for name, path in files.items()},
        "variables": [
            variable_of(KafkaSettings, name)
            for name in _SECRETS
            if getattr(kafka, name) is not None
        ],
    }


@dataclass(frozen=True, slots=True)
class CommandContext:
    """The collection that a command acts on; `settings` are complete, `brokers` included."""

    settings: Settings
    kafka: KafkaSettings
    runtime: Runtime | None
    brokers: str
    guessed: bool = False
    """True if neither the operator nor a running `up` named the brokers."""

    def connection(self) -> "KafkaConnection":
        from streams.kafka.connection import KafkaConnection

        return KafkaConnection(self.brokers, self.kafka)

    def names(self, space: str = "any") -> Names:
        """Return the names; content topics, dead letters and control belong to no space."""
        return Names(self.settings.topic_prefix, space)

    def url(self, given: str | None) -> str:
        """Return the API's address: as given, of the running `up`, or where one would listen."""
        if given:
            return given
        if self.runtime is not None:
            return self.runtime.url
        return url_of(self.settings.host, self.settings.port)

    def announce(self, *, url: str | None = None) -> None:
        """Say on stderr which collection it was. Call this at the end: a failure is one line.

        `url` is the address of a node that was asked instead of Kafka.
        """
        whose = "" if self.runtime is None else f", of the `up` that runs on {self.settings.data}"
        say(f"collection {self.settings.topic_prefix} at {url or self.brokers}{whose}", err=True)


def command_context(
    command: str, *, is_role: bool = False, level: int = logging.INFO, **given: Any
) -> CommandContext:
    """Read settings: those `given`, then those of the environment, then those of the running `up`.

    A role keeps its own shard, replica and store. Raises ConfigurationError for a value that
    contradicts the running `up`, and if an `up` has died there and no brokers are named.
    """
    from tidelens.process import logs

    found = effective_settings(given, is_role=is_role)
    if found.guessed and (left := Runtime.stale_file_problem(found.settings.data)):
        # Its collection may differ from that of the defaults.
        raise ConfigurationError(
            f"{left}; start `tidelens up` there again, or name the Kafka to act on with --brokers"
        )
    logs.configure(found.settings.log_format, command, level=level)
    return found


@dataclass(frozen=True, slots=True)
class NodeContext:
    """The node that a command asks; `context` is None if only its address was given."""

    url: str
    context: CommandContext | None

    def ask(
        self, request: "Callable[[Client], Awaitable[T]]", *, timeout_s: float | None = None
    ) -> T:
        """Return what `request` returns, given a client of the node. Call it outside of a loop.

        By default only the server ends a wait.
        """
        from tidelens.client import Client

        async def run() -> T:
            async with Client(self.url, timeout_s=timeout_s) as client:
                return await request(client)

        answer = asyncio.run(run())
        # Only now, since a failure is one line.
        self.announce()
        return answer

    def announce(self) -> None:
        """Say on stderr whose collection it answers from, unless the operator named the node."""
        if self.context is not None and self.context.runtime is not None:
            self.context.announce(url=self.url)
        elif self.context is not None:
            say(f"node {self.url}", err=True)


def node_context(url: str | None, data: Path | None = None) -> NodeContext:
    """Return the node at `url`, or else that of the `up` that runs on `data`.

    Where no `up` runs, it is the address where one would listen.
    """
    if url:
        return NodeContext(url, None)
    found = effective_settings({"data": data})
    return NodeContext(found.url(None), found)


def effective_settings(given: Mapping[str, Any], *, is_role: bool = False) -> CommandContext:
    """Read settings as `command_context` does, without configuring the log."""
    settings, kafka = settings_module.load(**given), settings_module.load_kafka()
    runtime = Runtime.read(settings.data)
    if runtime is None or not runtime.collection:
        brokers = settings.brokers or (runtime.brokers if runtime else DEFAULT_BROKERS)
        found = _with(settings, kafka, runtime, brokers)
        return replace(found, guessed=runtime is None and not settings.brokers)
    _require_same(settings, kafka, runtime, given)
    names = (*_IDENTITY, *(_OF_ROLES if is_role else _OF_COMMANDS))
    known = {"model": runtime.model, **runtime.collection}
    filled = {
        name: known[name]
        for name in (*names, "model")
        if name in known and name not in settings.model_fields_set
    }
    return _with(
        settings_module.load(**{**given, **filled}),
        settings_module.load_kafka(**_security(kafka, runtime.security)),
        runtime,
        settings.brokers or runtime.brokers,
    )


def _with(
    settings: Settings, kafka: KafkaSettings, runtime: Runtime | None, brokers: str
) -> CommandContext:
    return CommandContext(settings.model_copy(update={"brokers": brokers}), kafka, runtime, brokers)


def _require_same(
    settings: Settings, kafka: KafkaSettings, runtime: Runtime, given: Mapping[str, Any]
) -> None:
    """Raise ConfigurationError for the first value that differs, with both."""
    set_here = settings.model_fields_set
    pairs = [
        (name, getattr(settings, name), runtime.collection[name])
        for name in _IDENTITY
        if name in set_here and name in runtime.collection
    ]
    differing = [pair for pair in pairs if pair[1] != pair[2]]
    if settings.brokers and not _addresses(settings.brokers) & _addresses(runtime.brokers):
        differing.append(("brokers", settings.brokers, runtime.brokers))
    if differing:
        name, here, there = differing[0]
        flag = f"--{name.replace('_', '-')}"
        what = flag if given.get(name) is not None else variable_of(Settings, name)
        raise _contradiction(what, here, there, settings.data)
    protocol = runtime.security.get("security_protocol", kafka.security_protocol)
    if "security_protocol" in kafka.model_fields_set and kafka.security_protocol != protocol:
        what = variable_of(KafkaSettings, "security_protocol")
        raise _contradiction(what, kafka.security_protocol, protocol, settings.data)


def _contradiction(what: str, here: str, there: str, data: Path) -> ConfigurationError:
    return ConfigurationError(
        f"{what} is {here!r}, but the `up` that runs on {data} has {there!r} (run.json); leave it "
        "out to act on that collection, or set TIDELENS_DATA to another folder to act on another"
    )


def _addresses(brokers: str) -> set[str]:
    addresses = (address.strip().lower() for address in brokers.split(","))
    return {address.replace("localhost:", "127.0.0.1:") for address in addresses}


def _security(kafka: KafkaSettings, known: Mapping[str, Any]) -> dict[str, Any]:
    """Return what is not set here; the user and the certificate may be set to others."""
    names = ["security_protocol", "sasl_mechanism", "ssl_cafile"]
    if not {"ssl_certfile", "ssl_keyfile"} & kafka.model_fields_set:
        names += ["ssl_certfile", "ssl_keyfile"]
        variable = variable_of(KafkaSettings, "ssl_password")
        if variable in known.get("variables", ()) and kafka.ssl_password is None:
            # Without it OpenSSL would ask for it on the terminal.
            raise ConfigurationError(
                f"{variable}: not set, and the running `up` (run.json) has one for the key "
                f"{known.get('ssl_keyfile')}"
            )
    return {
        name: known[name]
        for name in names
        if known.get(name) is not None and name not in kafka.model_fields_set
    }
