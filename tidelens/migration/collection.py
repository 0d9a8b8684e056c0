"""The collection that a command works on: its settings, its event log and a node's address."""

from dataclasses import dataclass

from contracts.errors import TopicMismatch
from contracts.events.record import OutRecord
from contracts.ports.event_log import EventLog
from contracts.settings import Settings
from contracts.topics import TARGETS, Names, Target
from streams.kafka.connection import KafkaConnection
from streams.registry.control_topic import Control, ControlTopic


@dataclass(frozen=True, slots=True)
class OpenCollection:
    """A collection whose event log is open; `url` is the address of a node that answers in it."""

    settings: Settings
    connection: KafkaConnection
    event_log: EventLog
    url: str = ""

    def names(self, space: str = "") -> Names:
        """Return the names of the collection's topics and groups, and those of `space`."""
        return Names(self.settings.topic_prefix, space)

    async def control(self) -> Control:
        """Read the control topic."""
        return await ControlTopic(self.event_log, self.names().control).read()

    async def write(self, *records: OutRecord) -> None:
        """Publish records, in their order."""
        await self.event_log.publish(records)

    async def partitions(self, space: str) -> dict[Target, int]:
        """Return the partition count of each target.

        Raises TopicMismatch if a topic of `space` is missing, or if the counts of a content topic
        and of its embeddings topic differ.
        """
        names = self.names(space)
        topics = [f(t) for f in (names.content, names.embeddings) for t in TARGETS]
        counts = await self.event_log.partition_counts(topics)
        for target in TARGETS:
            content, embeddings = names.content(target), names.embeddings(target)
            if counts[content] != counts[embeddings]:
                raise TopicMismatch(
                    f"topic {content} has {counts[content]} partitions, {embeddings} has "
                    f"{counts[embeddings]}: they must be equal"
                )
        return {target: counts[names.content(target)] for target in TARGETS}
