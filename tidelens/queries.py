"""The query encoder as it is wired: its own module, since its process must start first.

Loading the model takes longest of all at a start; importing what else a node needs goes beside it.
"""

from dataclasses import dataclass

from consumers.encoders import space_of
from consumers.query import ProcessQueryEncoder, QueryModel
from contracts.metrics import Metrics
from contracts.settings import Settings
from contracts.space import Space


@dataclass(frozen=True, slots=True)
class Queries:
    """The query encoder and its space; started before Kafka answers, since it takes longest."""

    space: Space
    encoder: ProcessQueryEncoder
    metrics: Metrics


def make_queries(settings: Settings) -> Queries:
    """Raises ModelMissing when the model is not here."""
    metrics = Metrics()
    model = QueryModel(
        settings.model,
        settings.encode_threads,
        settings.image_bytes_max,
        settings.image_pixels_max,
    )
    encoder = ProcessQueryEncoder(
        model,
        metrics,
        batch_max=settings.query_batch_max,
        queue_max=settings.query_queue_max,
        cache_max=settings.query_cache_max,
    )
    return Queries(space_of(settings.model), encoder, metrics)
