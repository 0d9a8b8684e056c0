"""The error tree: every failure that Tidelens has a name for.

    TidelensError
    ├── UsageError             the operator must change something: one line, exit code 2
    │   ├── ConfigurationError
    │   ├── BrokerUnavailable  (retriable)
    │   │   └── BrokerAway  (retriable)
    │   ├── PortInUse
    │   ├── DataDirInUse
    │   ├── DataDirNotWritable
    │   ├── ModelMissing
    │   ├── PackageMissing
    │   ├── TopicMismatch
    │   │   └── TopicAbsent
    │   └── RecordTooLarge
    ├── RejectedRecord         one record is bad: it becomes a dead letter, the next one is served
    ├── RejectedRequest        one request is bad: an RFC 9457 problem, or an `error` message
    ├── NotReady               the node cannot answer now (retriable)
    ├── TimedOut               a bounded wait ended (retriable)
    ├── SpaceMismatch          a vector is of another space
    ├── Fenced                 another process owns this partition now
    ├── LogChanged             the state was made from another log: it must be rebuilt
    ├── RebuildFailed          a segment could not be built; the index is unchanged
    ├── DigestMismatch         the rows differ from those that the digest was computed from
    ├── SnapshotFailed         a snapshot could not be written (retriable)
    └── SnapshotRefused        a snapshot is torn, corrupt, or of another log or space
        └── UnknownFormat      a snapshot has the format of another version of Tidelens

A message names the field, the limit and the value, where there are any.
"""

from typing import Any, Protocol, Self

# A message may quote the refused input, which strangers wrote.
MESSAGE_CHARS_MAX = 1_000


class TidelensError(Exception):
    """The base of all errors. `retriable` is true where the same call may succeed later."""

    retriable = False


class UsageError(TidelensError):
    """The operator has to change something. It is shown as one line, with exit code 2."""


class ConfigurationError(UsageError):
    """A setting or argument has a value that cannot work."""


class BrokerUnavailable(UsageError):
    """No Kafka broker answers at the given address, or it refuses this client."""

    retriable = True


class BrokerAway(BrokerUnavailable):
    """No broker is reachable, but one may come back. One that refuses clients needs an operator."""


class PortInUse(UsageError):
    """A port to listen on is taken by another process."""


class DataDirInUse(UsageError):
    """Another live process uses the data directory."""


class DataDirNotWritable(UsageError):
    """The data directory cannot be written."""


class ModelMissing(UsageError):
    """The files of the model are not on this machine and cannot be fetched."""


class PackageMissing(UsageError):
    """A Python package of an extra is not installed; the message names the extra."""


class TopicMismatch(UsageError):
    """A topic is absent, or exists with settings that would lose or reorder records."""


class TopicAbsent(TopicMismatch):
    """A topic does not exist."""


class RecordTooLarge(UsageError):
    """A record is too large for its topic, whose max.message.bytes is too low."""


class Mistake(Protocol):
    """A mistake in an input: the reason, with the limit and the value where known."""

    @property
    def message(self) -> str: ...

    @property
    def limit(self) -> Any: ...

    @property
    def value(self) -> Any: ...


class _Rejected(TidelensError):
    """The base of errors about content: a code, and field, limit and value where known."""

    def __init__(
        self,
        code: str,
        message: str,
        *,
        field: str | None = None,
        limit: Any = None,
        value: Any = None,
    ) -> None:
        message = message[:MESSAGE_CHARS_MAX]
        super().__init__(message)
        self.code = code
        self.message = message
        self.field = field
        self.limit = limit
        self.value = value

    @classmethod
    def over(
        cls,
        code: str,
        limit: int,
        value: int,
        *,
        field: str,
        name: str | None = None,
        unit: str = "",
        **more: Any,
    ) -> Self:
        """Return the error for a value beyond a limit, in the wording that all of these have.

        `name` is the name of the limit, where it is not that of the field; `more` is passed to the
        constructor.
        """
        what = f"{limit} {unit}".rstrip()
        message = f"{name or field}: limit {what}, got {value}"
        return cls(code, message, field=field, limit=limit, value=value, **more)

    @classmethod
    def at(cls, code: str, field: str, mistake: Mistake) -> Self:
        """Return the error for a mistake at the path `field` of an input."""
        message = f"{field}: {mistake.message}"
        return cls(code, message, field=field, limit=mistake.limit, value=mistake.value)

    def members(self) -> dict[str, Any]:
        """Return code and message, and field, limit and value where known, for the wire."""
        known = {"field": self.field, "limit": self.limit, "value": self.value}
        return {
            "code": self.code,
            "message": self.message,
            **{name: value for name, value in known.items() if value is not None},
        }


class RejectedRecord(_Rejected):
    """One record is bad. It becomes a dead letter with `code` as its reason."""


class RejectedRequest(_Rejected):
    """One request is bad. It is answered with the HTTP status `status`."""

    def __init__(
        self,
        code: str,
        message: str,
        *,
        status: int = 400,
        field: str | None = None,
        limit: Any = None,
        value: Any = None,
    ) -> None:
        super().__init__(code, message, field=field, limit=limit, value=value)
        self.status = status


class NotReady(TidelensError):
    """The node has not caught up, or fell so far behind that its state no longer exists."""

    retriable = True


class TimedOut(TidelensError):
    """A bounded wait ended before its condition was met."""

    retriable = True


class SpaceMismatch(TidelensError):
    """A vector is of another space than expected; the message names both."""


class Fenced(TidelensError):
    """A newer owner of the partition exists. The encoder must drop its partitions and rejoin."""


class LogChanged(TidelensError):
    """A topic was recreated or offsets are out of range: the state must be rebuilt from the log."""


class RebuildFailed(TidelensError):
    """A segment could not be built; the index is unchanged."""


class DigestMismatch(TidelensError):
    """The rows differ from those that the digest was computed from: bad memory, or a defect."""


class SnapshotFailed(TidelensError):
    """A snapshot could not be written or its store not reached; a later attempt may succeed."""

    retriable = True


class SnapshotRefused(TidelensError):
    """A snapshot is torn, corrupt, of a newer format, or of another log or space."""


class UnknownFormat(SnapshotRefused):
    """Another version wrote the snapshot and can restore it, so its blobs must not be deleted."""
