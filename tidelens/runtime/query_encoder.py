"""The query encoder as it is wired: its own module, since its process must start first.

Loading the model takes longest of all at a start; importing what else a node needs goes beside it.
"""

import asyncio
from dataclasses import dataclass
from functools import partial

from consumers.models import model_space
from consumers.queries.encoder import ProcessQueryEncoder, QueryModel
from contracts.metrics import Metrics
from contracts.settings import Settings
from contracts.space import Space
from contracts.supervision.processes import Part
from tidelens.process import logs
from tidelens.runtime.decode_limits import query_limits


@dataclass(slots=True)
class QueryEncoderTask:
    """The query encoder of one model; started before Kafka answers, since it takes longest."""

    model: str
    space: Space
    encoder: ProcessQueryEncoder
    metrics: Metrics
    _running: "asyncio.Task[None] | None" = None

    def start(self) -> None:
        """Let the process load its model from now on; `run` then goes on with it."""
        if self._running is None:
            self._running = asyncio.create_task(self.encoder.run(), name="queries")

    async def run(self) -> None:
        """Until cancelled."""
        self.start()
        assert self._running is not None
        await self._running

    async def stop(self) -> None:
        if self._running is not None:
            self._running.cancel()
            await asyncio.wait([self._running])


def make_queries(settings: Settings, model: str | None = None) -> QueryEncoderTask:
    """For `model`, else the settings' one. Raises ModelMissing when it is not here."""
    model = model or settings.model
    space = model_space(model)
    metrics = Metrics(space.name)
    encoder = ProcessQueryEncoder(
        QueryModel(
            model,
            settings.encode_threads_used,
            settings.precision_named,
            settings.remote_code,
        ),
        metrics,
        query_limits(settings),
        batch_max=settings.query_batch_max,
        queue_max=settings.query_queue_max,
        cache_max=settings.query_cache_max,
        encode_timeout_s=settings.query_encode_timeout_s,
        picture_turn_s=settings.query_picture_turn_ms / 1000,
        space=space.name,
        templates=settings.query_templates,
        part=Part("query", model, pause_max_s=settings.restart_pause_max_s),
        prepare=partial(logs.configure_process, settings.log_format, "query"),
    )
    return QueryEncoderTask(model, space, encoder, metrics)
