"""Which space is active: switching to a candidate, rolling back, giving either up.

Each is one record in the control topic, written after its checks; nodes follow it by themselves.
"""

import asyncio
from dataclasses import dataclass

from contracts import fault_points
from contracts.errors import ConfigurationError, TidelensError, TopicMismatch
from contracts.events.control_record import ActiveSpace, CandidateSpace, SpaceRef, no_candidate
from contracts.events.record import OutRecord
from contracts.ports.event_log import EventLog
from contracts.settings import Settings
from contracts.topics import TARGETS, Names, Target
from streams.groups.members import group_members
from streams.kafka.connection import Connection
from streams.registry.control_topic import Control, read_control
from tidelens.migration.compare import LiveSets, compare_sets
from tidelens.process.clock import SystemClock

_ENCODER_WAIT_S = 60.0
_LOOK_S = 1.0


@dataclass(frozen=True, slots=True)
class Collection:
    """What the commands about spaces work on."""

    settings: Settings
    connection: Connection
    event_log: EventLog
    url: str = ""
    """The URL of a node that answers in it."""

    def names(self, space: str = "") -> Names:
        return Names(self.settings.topic_prefix, space)

    async def control(self) -> Control:
        return await read_control(self.event_log, self.names().control)

    async def write(self, *records: OutRecord) -> None:
        await self.event_log.publish(records)

    async def partitions(self, space: str) -> dict[Target, int]:
        """Of both targets. Raises TopicMismatch where content and embeddings differ."""
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


async def served_now(collection: Collection, model: str) -> SpaceRef:
    """The active space; before the first switch that of `model`, if it is served at all."""
    active = (await collection.control()).active
    if active is not None:
        return active.current
    from consumers.models import space_of

    ref = SpaceRef.of(await asyncio.to_thread(space_of, model), model)
    try:
        await collection.partitions(ref.space)
    except TopicMismatch:
        raise ConfigurationError(
            f"TIDELENS_MODEL: nobody serves space {ref.space} of model {model!r} here; "
            "set it to the model of the running nodes"
        ) from None
    return ref


async def check_switch(collection: Collection, old: SpaceRef) -> tuple[CandidateSpace, LiveSets]:
    """The candidate, fit to be switched to but for what it may lack. Raises TidelensError."""
    candidate = (await collection.control()).candidate
    if candidate is None:
        raise TidelensError(
            "there is no candidate: make one with `tidelens rebuild --space NEW --model MODEL`"
        )
    made = candidate.ref
    if made == old:
        # A switch that was cut off between its two records.
        await collection.write(no_candidate(collection.names().control))
        raise TidelensError(f"space {made.space} is active already")
    if candidate.encoded_at is None:
        raise TidelensError(
            f"space {made.space} is not encoded yet: run `tidelens rebuild --space {made.space} "
            f"--model {made.model}` to its end"
        )
    await _require_encoder(collection, made)
    partitions = await collection.partitions(made.space)
    sets = await compare_sets(
        collection.event_log,
        collection.names(old.space),
        collection.names(made.space),
        partitions,
    )
    return candidate, sets


async def without_encoder(collection: Collection, ref: SpaceRef) -> bool:
    """Whether nobody keeps this space current now."""
    group = collection.names(ref.space).encoder_group
    return not await group_members(collection.connection, group)


async def _require_encoder(collection: Collection, ref: SpaceRef) -> None:
    """Without an encoder of its own the new space would answer from the past for ever."""
    try:
        async with asyncio.timeout(_ENCODER_WAIT_S):
            while await without_encoder(collection, ref):  # noqa: ASYNC110
                await asyncio.sleep(_LOOK_S)
    except TimeoutError:
        raise TidelensError(
            f"no encoder of space {ref.space} runs: start `tidelens encode --model {ref.model}`, "
            "then `tidelens rebuild --switch`"
        ) from None


def require_whole(sets: LiveSets, new: SpaceRef) -> None:
    """Raise TidelensError where items are missing in the new space."""
    if sets.missing_count:
        reasons = ", ".join(f"{count} {why}" for why, count in sorted(sets.reasons.items()))
        raise TidelensError(
            f"items missing in {new.space}: {sets.missing_count} ({reasons}); publish them anew, "
            "or switch with --missing-ok"
        )


async def switch(collection: Collection, old: SpaceRef, new: SpaceRef) -> ActiveSpace:
    """Let every node answer in `new`; `old` stays ready for a rollback."""
    active = ActiveSpace(new, old, SystemClock().now())
    topic = collection.names().control
    # In this order: a crash between the two leaves a candidate that is active, which harms nobody.
    # 1. Nodes follow this record.
    await collection.write(active.record(topic))
    fault_points.reach("space.switched")
    # 2. No candidate any more.
    await collection.write(no_candidate(topic))
    return active


async def roll_back(collection: Collection) -> ActiveSpace:
    """Back to the space that answered before; what answers now stays ready in its turn."""
    active = await _switched(collection)
    assert active.previous is not None
    back = ActiveSpace(active.previous, active.current, SystemClock().now())
    await collection.write(back.record(collection.names().control))
    return back


async def give_up_rollback(collection: Collection) -> ActiveSpace:
    """Keep what answers now; nodes and `up` let the other space go."""
    active = await _switched(collection)
    alone = ActiveSpace(active.current, None, SystemClock().now())
    await collection.write(alone.record(collection.names().control))
    return alone


async def _switched(collection: Collection) -> ActiveSpace:
    active = (await collection.control()).active
    if active is None or active.previous is None:
        raise TidelensError("nothing was switched, or its rollback was given up")
    return active


async def abandon(collection: Collection) -> SpaceRef:
    """Give the candidate up; its topics stay, and a later rebuild goes on from them."""
    candidate = (await collection.control()).candidate
    if candidate is None:
        raise TidelensError("there is no candidate to abandon")
    await collection.write(no_candidate(collection.names().control))
    return candidate.ref
