"""Which space a node answers in when it starts: the active one, if it can be had at all.

A control record may name what is not there, or what this machine lacks. Such a node answers in the
newest space that it can, says so, and moves to the active one as soon as that can be opened.
"""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import structlog

from contracts.control import SpaceRef
from contracts.errors import ModelMissing, SpaceMismatch, TidelensError, TopicMismatch
from contracts.ports import EventLog
from contracts.settings import Settings
from contracts.topics import TARGETS, Names
from streams.control import Control, Judge, require_same, topics_exist
from tidelens.guesses import space_here
from tidelens.queries import Queries, make_queries
from tidelens.runtime import remember_model, remembered_model
from tidelens.threads import beside

log = structlog.get_logger(__name__)


def queries_of(settings: Settings, ref: SpaceRef) -> Queries:
    """Raises ModelMissing, and SpaceMismatch where this machine's model is another one."""
    queries = make_queries(settings, ref.model)
    require_same(ref, queries.space)
    return queries


async def first_queries(
    settings: Settings, event_log: EventLog, control: Control, started: Queries | None = None
) -> Queries:
    """Return the query encoder of the first space that can be opened here.

    In this order: the active space, the one before it, those that earlier records name, what was
    remembered, and what the settings say. `started` is returned or stopped. Where none can be
    opened, raises the error of the first.
    """
    failures: list[TidelensError] = []
    for choice in await asyncio.to_thread(_choices, settings, control):
        try:
            queries = await _opened(settings, choice, started)
            if choice.must_exist or failures:
                names = Names(settings.topic_prefix, queries.space.name)
                await event_log.partition_counts([names.embeddings(t) for t in TARGETS])
        except (ModelMissing, SpaceMismatch, TopicMismatch) as error:
            log.error("a space cannot be opened here", model=choice.model, error=str(error))
            failures.append(error)
            continue
        if failures or control.active_refused:
            log.warning(
                "not every record about the active space can be followed: answering in this one",
                space=queries.space.name,
                model=queries.model,
                fix="tidelens control show",
            )
        if started is not None and queries is not started:
            await started.stop()
        return queries
    raise failures[0]


@dataclass(frozen=True, slots=True)
class _Choice:
    """What a node may answer in. `must_exist`: its topics are there, not made at this start."""

    model: str
    ref: SpaceRef | None = None
    must_exist: bool = True


def _choices(settings: Settings, control: Control) -> list[_Choice]:
    served = [] if control.active is None else control.active.served
    choices = [_Choice(ref.model, ref) for ref in dict.fromkeys([*served, *control.before])]
    if served or control.active_refused:
        remembered = remembered_model(settings.data)
        choices += [_Choice(remembered)] if remembered else []
    return [*choices, _Choice(settings.model, must_exist=False)]


async def _opened(settings: Settings, choice: _Choice, started: Queries | None) -> Queries:
    if started is not None and started.model == choice.model:
        if choice.ref is not None:
            require_same(choice.ref, started.space)
        return started
    if choice.ref is not None:
        ref = choice.ref
        return await beside(lambda: queries_of(settings, ref))
    return await beside(lambda: make_queries(settings, choice.model))


def openable(event_log: EventLog, control_topic: str) -> Judge:
    """A judge that wants the topics of the space, and the model that makes it, here."""
    exist = topics_exist(event_log, control_topic)

    async def judge(ref: SpaceRef) -> None:
        await exist(ref)
        require_same(ref, await beside(lambda: space_here(ref.model)))

    return judge


async def remembering(data: Path, followed: AsyncIterator[Control]) -> AsyncIterator[Control]:
    """Yield what `followed` does; the active model is the guess of the next start."""
    async for control in followed:
        active = control.active
        if active is not None or not control.active_refused:
            model = None if active is None else active.current.model
            try:
                await asyncio.to_thread(remember_model, data, model)
            except OSError as error:
                # A full disk ends nothing: the next start may guess wrong, and then loads longer.
                log.warning("the active model cannot be remembered", error=str(error))
        yield control
