"""Repair the control topic: write good records over those that nodes ignore."""

import asyncio
from dataclasses import replace

from contracts.errors import ModelMissing, SpaceMismatch, UsageError
from contracts.events.control_record import ACTIVE, CANDIDATE, ActiveSpace, SpaceRef, no_candidate
from contracts.events.partition_count_record import PARTITIONS
from contracts.events.record import OutRecord
from streams.registry.control_topic import Control, require_same
from tidelens.migration.collection import OpenCollection
from tidelens.process.clock import SystemClock
from tidelens.runtime.model_guess import absolute, space_here


async def repair(
    collection: OpenCollection, model: str | None, *, unknown_keys: bool = False
) -> list[OutRecord]:
    """Write good records over ignored ones; with `model`, make its space the active one.

    With `unknown_keys`, records with unknown keys are deleted. Returns the records that were
    written. Raises UsageError if no good
    record of the active space is left to write.
    """
    control, topic = await collection.control(), collection.names().control
    records = []
    ignored = {one.key.encode() for one in control.refused}
    if model is not None or ACTIVE in ignored:
        records.append(await _active(collection, control, model))
    if CANDIDATE in ignored:
        candidate = control.candidate
        records.append(no_candidate(topic) if candidate is None else candidate.record(topic))
    if PARTITIONS in ignored:
        # Compaction keeps only the ignored record. Where no good one is left, the next start of
        # `up`, or `topics create`, writes the current counts.
        none = OutRecord(topic, PARTITIONS, None, partition=0)
        records.append(none if control.counts is None else control.counts.record(topic))
    if unknown_keys:
        deleted = (key for key in control.unknown_keys if key)
        records += [OutRecord(topic, key, None, partition=0) for key in deleted]
    if records:
        await collection.write(*records)
    return records


async def _active(collection: OpenCollection, control: Control, model: str | None) -> OutRecord:
    now, topic = SystemClock().now(), collection.names().control
    if model is None:
        if control.active is None:
            raise UsageError(
                "no good record of the active space is left: say with --model which model's space "
                "nodes are to answer in; /v1/status of a node names what it answers in now"
            )
        # Its topics exist; only a machine like the nodes' shows whether a node can answer in it.
        current = control.active.current
        try:
            require_same(current, await asyncio.to_thread(space_here, current.model))
        except (ModelMissing, SpaceMismatch) as error:
            raise UsageError(
                f"the newest record that can be read names space {current.space}, and this machine "
                f"cannot make it ({error}); repair where nodes run, or say with --model which "
                "model's space they are to answer in"
            ) from None
        return replace(control.active, at=now).record(topic)
    model = await asyncio.to_thread(absolute, model)
    ref = SpaceRef.of(await asyncio.to_thread(space_here, model), model)
    # This raises TopicMismatch for a space that does not exist.
    await collection.partitions(ref.space)
    return ActiveSpace(ref, None, now).record(topic)
