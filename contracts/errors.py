"""The error tree: every failure that Tidelens names itself.

    TidelensError
    ├── UsageError             the operator must change something; exit code 2, one line
    │   ├── ConfigurationError
    │   ├── BrokerUnavailable  (retriable)
    │   │   └── BrokerAway  (retriable)
    │   ├── PortInUse
    │   ├── DataDirInUse
    │   ├── DataDirNotWritable
    │   ├── ModelMissing
    │   ├── TopicMismatch
    │   │   └── TopicAbsent
    │   └── RecordTooLarge
    ├── RejectedRecord         one record is bad: dead-lettered, the next one is served
    ├── RejectedRequest        one request is bad: an RFC 9457 problem, or an `error` message
    ├── NotReady               the node cannot stand for an answer now (retriable)
    ├── TimedOut               a bounded wait ended (retriable)
    ├── SpaceMismatch          vectors of two spaces met
    ├── Fenced                 another process owns this partition now
    ├── LogChanged             the log is not the one that the state came from: rebuild
    ├── RebuildFailed          a segment could not be built; the index is as it was
    ├── DigestMismatch         rows are not those that the digest was made of
    ├── SnapshotFailed         a snapshot could not be written (retriable)
    └── SnapshotRefused        torn, corrupt, or of another log or space
        └── UnknownFormat      of a version of Tidelens that reads what this one does not

A message names the field, the limit and the value, where there are such.
"""

from typing import Any, Self

# A message may quote what it refuses, which strangers wrote.
MESSAGE_CHARS_MAX = 1_000


class TidelensError(Exception):
    """Base of all. `retriable`: the same call may succeed later without a change."""

    retriable = False


class UsageError(TidelensError):
    """The operator has to change something; shown as one line, exit code 2."""


class ConfigurationError(UsageError):
    """A setting or argument has a value that cannot work."""


class BrokerUnavailable(UsageError):
    """No Kafka broker answers at the given address, or it refuses us."""

    retriable = True


class BrokerAway(BrokerUnavailable):
    """No broker is reached. It may come back; a broker that refuses us needs an operator."""


class PortInUse(UsageError):
    """A port that we must listen on is taken."""


class DataDirInUse(UsageError):
    """Another live process uses the data directory."""


class DataDirNotWritable(UsageError):
    """The data directory cannot be written."""


class ModelMissing(UsageError):
    """The model's files are not here and cannot be had."""


class TopicMismatch(UsageError):
    """A topic is absent, or exists with settings that would lose or reorder records."""


class TopicAbsent(TopicMismatch):
    """A topic does not exist."""


class RecordTooLarge(UsageError):
    """A topic does not take a record that we have to write: its max.message.bytes is too low."""


class _Rejected(TidelensError):
    """Shared by what is refused for its content: a code, and field, limit and value."""

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
        """Return the refusal of a value beyond a limit, in the words that all of them have.

        `name` is that of the limit, if it is not the field's; `more` goes to the constructor.
        """
        what = f"{limit} {unit}".rstrip()
        message = f"{name or field}: limit {what}, got {value}"
        return cls(code, message, field=field, limit=limit, value=value, **more)

    def members(self) -> dict[str, Any]:
        """Code, message and whichever of field, limit, value are known, for the wire."""
        known = {"field": self.field, "limit": self.limit, "value": self.value}
        return {
            "code": self.code,
            "message": self.message,
            **{name: value for name, value in known.items() if value is not None},
        }


class RejectedRecord(_Rejected):
    """One record is bad by itself; it goes to the dead letters with `code` as its reason."""


class RejectedRequest(_Rejected):
    """One request is bad; `status` is the HTTP status it is answered with."""

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
    """A bounded wait ended before what it waited for came."""

    retriable = True


class SpaceMismatch(TidelensError):
    """Vectors of two spaces met; the message names both."""


class Fenced(TidelensError):
    """A newer owner of the partition exists; whoever sees this drops all it owns and joins anew."""


class LogChanged(TidelensError):
    """Topic recreated, or offsets out of range: the state must be rebuilt from the log."""


class RebuildFailed(TidelensError):
    """A segment could not be built; the index is as it was."""


class DigestMismatch(TidelensError):
    """The rows are not those that the state's digest was made of: memory went bad, or a defect."""


class SnapshotFailed(TidelensError):
    """A snapshot could not be written, or its store not be reached; a later try may succeed."""

    retriable = True


class SnapshotRefused(TidelensError):
    """A snapshot is torn, corrupt, of a newer format, or of another log or space."""


class UnknownFormat(SnapshotRefused):
    """Another version wrote it and can restore it: its parts are not garbage."""
