"""Wire the query encoder, in a module of its own since its process must start first.

Loading the model takes longest of all at a start, and the imports of a node go on beside it.
"""

import asyncio
from dataclasses import dataclass
from functools import partial

from consumers.images.decoder_pool import BESIDE_QUERIES_NICE
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
    """The query encoder of one model, with the task that runs it.

    `up` starts it before Kafka answers, since loading a model takes longest.
    """

    model: str
    space: Space
    encoder: ProcessQueryEncoder
    metrics: Metrics
    _running: "asyncio.Task[None] | None" = None

    def start(self) -> None:
        """Start the process, which loads its model; `run` then waits for it."""
        if self._running is None:
            self._running = asyncio.create_task(self.encoder.run(), name="queries")

    async def run(self) -> None:
        """Run until cancelled."""
        self.start()
        assert self._running is not None
        await self._running

    async def stop(self) -> None:
        """Cancel the task, if it was started, and wait for its end."""
        if self._running is not None:
            self._running.cancel()
            await asyncio.wait([self._running])


def make_queries(
    settings: Settings, model: str | None = None, *, decoder_nice: int = BESIDE_QUERIES_NICE
) -> QueryEncoderTask:
    """Make the query encoder of `model`, or of the settings' model. Raises ModelMissing.

    `decoder_nice` is added to the niceness of the processes that decode pictures.
    """
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
        query_limits(settings, nice=decoder_nice),
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
