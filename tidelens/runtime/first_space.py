"""Choose the space that a node answers in when it starts: the active one, if it can be opened.

A control record may name a space that does not exist, or one whose model this machine lacks. Then
the node answers in the newest space that it can open, says so, and moves to the active one as soon
as that can be opened.
"""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import structlog

from contracts.errors import ModelMissing, SpaceMismatch, TidelensError, TopicMismatch
from contracts.events.control_record import SpaceRef
from contracts.ports.event_log import EventLog
from contracts.settings import Settings
from contracts.topics import TARGETS, Names
from streams.registry.control_topic import Control, SpaceCheck, require_same, topics_exist
from tidelens.process.threads import in_daemon_thread
from tidelens.runtime.model_guess import space_here
from tidelens.runtime.query_encoder import QueryEncoderTask, make_queries
from tidelens.runtime.run_file import remember_model, remembered_model

log = structlog.get_logger(__name__)


def open_queries(settings: Settings, ref: SpaceRef) -> QueryEncoderTask:
    """Make the query encoder of `ref`. Raises ModelMissing, or SpaceMismatch for another space."""
    queries = make_queries(settings, ref.model)
    require_same(ref, queries.space)
    return queries


async def first_queries(
    settings: Settings,
    event_log: EventLog,
    control: Control,
    started: QueryEncoderTask | None = None,
) -> QueryEncoderTask:
    """Return the query encoder of the first space that can be opened here.

    The order is: the active space, the one before it, those that earlier records name, the
    remembered one, and that of the settings. `started`, an encoder that runs already, is returned
    if it fits, and stopped if another is returned. If no space can be opened, the first error is
    raised: ModelMissing, SpaceMismatch or TopicMismatch.
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
    """A space that a node may answer in; with `must_exist`, its topics must exist already."""

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


async def _opened(
    settings: Settings, choice: _Choice, started: QueryEncoderTask | None
) -> QueryEncoderTask:
    if started is not None and started.model == choice.model:
        if choice.ref is not None:
            require_same(choice.ref, started.space)
        return started
    if choice.ref is not None:
        ref = choice.ref
        return await in_daemon_thread(lambda: open_queries(settings, ref))
    return await in_daemon_thread(lambda: make_queries(settings, choice.model))


def openable(event_log: EventLog, control_topic: str) -> SpaceCheck:
    """Return a check that raises unless the space's topics exist and its model is installed."""
    exist = topics_exist(event_log, control_topic)

    async def judge(ref: SpaceRef) -> None:
        await exist(ref)
        require_same(ref, await in_daemon_thread(lambda: space_here(ref.model)))

    return judge


async def remembering(data: Path, followed: AsyncIterator[Control]) -> AsyncIterator[Control]:
    """Yield what `followed` does, and remember the active model for the next start."""
    async for control in followed:
        active = control.active
        if active is not None or not control.active_refused:
            model = None if active is None else active.current.model
            try:
                await asyncio.to_thread(remember_model, data, model)
            except OSError as error:
                # A full disk must not end the node: at worst, the next start loads a wrong model
                # first and takes longer.
                log.warning("the active model cannot be remembered", error=str(error))
        yield control
