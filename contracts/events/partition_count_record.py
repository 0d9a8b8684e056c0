"""The control record of partition counts: how many each content topic was created with."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import orjson

from contracts.errors import RejectedRecord
from contracts.events.record import OutRecord
from contracts.topics import TARGETS, Target

PARTITIONS = b"content-partitions"


@dataclass(frozen=True, slots=True)
class CreatedTopic:
    """A content topic by its id, with the number of partitions that it was created with."""

    topic_id: str
    partitions: int

    @classmethod
    def read(cls, body: Any, where: str) -> Self:
        """Read one topic. `where` is the path of `body` in the record. Raises RejectedRecord."""
        members = body if isinstance(body, dict) else {}
        topic_id, partitions = members.get("topic_id"), members.get("partitions")
        if type(topic_id) is not str or not topic_id:
            raise _wrong(f"{where}.topic_id", "a topic's id", topic_id)
        if type(partitions) is not int or partitions < 1:
            raise _wrong(f"{where}.partitions", "a whole number from 1", partitions)
        return cls(topic_id, partitions)


@dataclass(frozen=True, slots=True)
class RecordedPartitionCounts:
    """The recorded partition count of each content topic; a target without a record is missing."""

    topics: Mapping[Target, CreatedTopic]

    def record(self, topic: str) -> OutRecord:
        """Return the record of these counts for the control topic `topic`."""
        """Return the record that states these counts, for the control topic `topic`."""
        body = {
            target: {"topic_id": created.topic_id, "partitions": created.partitions}
            for target, created in self.topics.items()
        }
        return OutRecord(topic, PARTITIONS, orjson.dumps(body), partition=0)

    @classmethod
    def read(cls, body: Mapping[str, Any], latest: float = 0.0) -> Self:
        """Read the counts. Raise RejectedRecord. `latest` is not used: the record has no times."""
        return cls({t: CreatedTopic.read(body[t], t) for t in TARGETS if t in body})


def _wrong(field: str, want: str, value: Any) -> RejectedRecord:
    shown = repr(value)[:100]
    return RejectedRecord(
        "impossible_value", f"{field}: want {want}, got {shown}", field=field, value=shown
    )
