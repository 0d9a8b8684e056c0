"""Changes of the active space: switching to a candidate, rolling back, dropping one of them.

Each change is a record in the control topic, written after its checks; nodes follow that record.
"""

import asyncio

from contracts import fault_points
from contracts.errors import ConfigurationError, TidelensError, TopicMismatch, UsageError
from contracts.events.control_record import ActiveSpace, CandidateSpace, SpaceRef, no_candidate
from streams.groups.members import group_members
from tidelens.migration.collection import OpenCollection
from tidelens.migration.compare import LiveIdComparison, compare_sets
from tidelens.process.clock import SystemClock

_POLL_S = 1.0


async def active_space(collection: OpenCollection, model: str) -> SpaceRef:
    """Return the active space; before the first switch that is the space of `model`.

    Raises ConfigurationError if no node serves that one.
    """
    active = (await collection.control()).active
    if active is not None:
        return active.current
    from consumers.models import model_space

    ref = SpaceRef.of(await asyncio.to_thread(model_space, model), model)
    try:
        await collection.partitions(ref.space)
    except TopicMismatch:
        raise ConfigurationError(
            f"TIDELENS_MODEL: no node serves space {ref.space} of model {model!r} here; "
            "set it to the model of the running nodes"
        ) from None
    return ref


async def encoded_candidate(collection: OpenCollection, old: SpaceRef) -> CandidateSpace:
    """Return the candidate. Raises TidelensError if none is fully encoded and not yet active."""
    candidate = (await collection.control()).candidate
    if candidate is None:
        raise TidelensError("no space is being made: make one with `tidelens space create MODEL`")
    made = candidate.ref
    if made == old:
        # A switch ended between its two records.
        await collection.write(no_candidate(collection.names().control))
        raise TidelensError(f"space {made.space} is active already")
    if candidate.encoded_at is None:
        raise TidelensError(
            f"space {made.space} is not encoded yet: run `tidelens space create {made.model}` to "
            "its end"
        )
    return candidate


async def check_switch(
    collection: OpenCollection, old: SpaceRef, *, encoder_wait_s: float = 60.0
) -> tuple[CandidateSpace, LiveIdComparison]:
    """Return the candidate that nodes may move to, and the items that it lacks.

    Waits up to `encoder_wait_s` seconds for an encoder of it. Raises TidelensError if there is no
    such candidate, or if no encoder keeps it current.
    """
    candidate = await encoded_candidate(collection, old)
    made = candidate.ref
    await _require_encoder(collection, made, wait_s=encoder_wait_s)
    partitions = await collection.partitions(made.space)
    sets = await compare_sets(
        collection.event_log,
        collection.names(old.space),
        collection.names(made.space),
        partitions,
    )
    return candidate, sets


async def has_encoder(collection: OpenCollection, ref: SpaceRef) -> bool:
    """Return whether an encoder keeps this space current now."""
    group = collection.names(ref.space).encoder_group
    return bool(await group_members(collection.connection, group))


async def _require_encoder(collection: OpenCollection, ref: SpaceRef, *, wait_s: float) -> None:
    """Wait for an encoder; raise TidelensError if none runs, as new items would be missing."""
    try:
        async with asyncio.timeout(wait_s):
            while not await has_encoder(collection, ref):  # noqa: ASYNC110
                await asyncio.sleep(_POLL_S)
    except TimeoutError:
        raise TidelensError(
            f"no encoder of space {ref.space} runs: start `tidelens encode --model {ref.model}`, "
            "then `tidelens space switch`"
        ) from None


def require_whole(sets: LiveIdComparison, new: SpaceRef) -> None:
    """Raise TidelensError if items are missing in the new space."""
    if sets.missing_count:
        reasons = ", ".join(f"{count} {why}" for why, count in sorted(sets.reasons.items()))
        raise TidelensError(
            f"items missing in {new.space}: {sets.missing_count} ({reasons}); publish them again, "
            "or switch with --missing-ok"
        )


async def switch(collection: OpenCollection, old: SpaceRef, new: SpaceRef) -> ActiveSpace:
    """Let all nodes answer in `new`; `old` stays ready for a rollback."""
    active = ActiveSpace(new, old, SystemClock().now())
    topic = collection.names().control
    # In this order, since a crash between the two leaves a candidate that is active: a harmless
    # state, which encoded_candidate ends.
    # 1. Nodes follow this record.
    await collection.write(active.record(topic))
    fault_points.reach("space.switched")
    # 2. The new space is a candidate no longer.
    await collection.write(no_candidate(topic))
    return active


async def roll_back(collection: OpenCollection) -> ActiveSpace:
    """Return to the space that was active before; the one that was active stays ready.

    Raises TidelensError if no space is ready for a rollback.
    """
    active = await _switched(collection)
    assert active.previous is not None
    back = ActiveSpace(active.previous, active.current, SystemClock().now())
    await collection.write(back.record(collection.names().control))
    return back


async def give_up_rollback(collection: OpenCollection) -> ActiveSpace:
    """Drop the space that was ready for a rollback: nodes and encoders of `up` close it.

    Returns the record of the active space. Raises TidelensError if no other space is ready.
    """
    active = await _switched(collection)
    alone = ActiveSpace(active.current, None, SystemClock().now())
    await collection.write(alone.record(collection.names().control))
    return alone


async def _switched(collection: OpenCollection) -> ActiveSpace:
    active = (await collection.control()).active
    if active is None or active.previous is None:
        raise TidelensError("nothing was switched, or its rollback was given up")
    return active


async def abandon(collection: OpenCollection) -> SpaceRef:
    """Give up the candidate, and return it. Raises TidelensError if there is none.

    Its topics stay, so making it again encodes only what they lack.
    """
    candidate = (await collection.control()).candidate
    if candidate is None:
        raise TidelensError("no space is being made")
    await collection.write(no_candidate(collection.names().control))
    return candidate.ref


async def drop(collection: OpenCollection, space: str) -> None:
    """Give up the candidate, or the space that is kept for a rollback, whichever has this name.

    Raises UsageError for the active space and for any other name.
    """
    control = await collection.control()
    active, candidate = control.active, control.candidate
    if active is not None and active.current.space == space:
        raise UsageError(
            f"space {space} is active and cannot be dropped; first make another space active with "
            "`tidelens space switch` or `tidelens space rollback`"
        )
    if candidate is not None and candidate.ref.space == space:
        await abandon(collection)
    elif active is not None and active.previous is not None and active.previous.space == space:
        await give_up_rollback(collection)
    else:
        raise UsageError(
            f"space {space} is neither being made nor kept for a rollback; "
            "`tidelens space status` lists the spaces"
        )
