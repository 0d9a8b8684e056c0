"""The space that nodes answer in, for commands that do not name one."""

import asyncio

from consumers.models import model_space
from contracts.errors import BrokerUnavailable, TopicMismatch
from contracts.settings import Settings
from contracts.space import Space
from contracts.topics import Names
from streams.kafka.connection import KafkaConnection
from streams.registry.control_topic import Control, ControlTopic, require_same
from tidelens.runtime.event_log import open_event_log
from tidelens.runtime.run_file import model_of, remembered_model


async def ask_control(settings: Settings, connection: KafkaConnection) -> Control:
    """Read the control topic. Raises BrokerUnavailable, TopicMismatch."""
    await connection.require_reachable()
    async with open_event_log(settings, connection) as event_log:
        return await ControlTopic(event_log, Names(settings.topic_prefix, "").control).read()


async def active_space_of(settings: Settings, connection: KafkaConnection) -> Space:
    """Return the active space.

    Before the first switch, it is that of the model of the running `up`, or of the settings. While
    Kafka is away, it is the one that `up` remembers. Raises ModelMissing, SpaceMismatch.
    """
    try:
        active = (await ask_control(settings, connection)).active
    except (BrokerUnavailable, TopicMismatch):
        model = await asyncio.to_thread(remembered_model, settings.data)
        return await asyncio.to_thread(model_space, model or model_of(settings))
    if active is None:
        return await asyncio.to_thread(model_space, model_of(settings))
    space = await asyncio.to_thread(model_space, active.current.model)
    require_same(active.current, space)
    return space
