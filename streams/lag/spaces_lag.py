"""The lag of several spaces: the served one, the one kept for a rollback, the one being made."""

from collections.abc import Callable, Iterable, Sequence

import structlog
from aiokafka.errors import KafkaError

from contracts.errors import TidelensError
from contracts.ports.lag import Lag
from streams.lag.kafka_lag import KafkaLag

log = structlog.get_logger(__name__)


class SpacesLag:
    """The LagSource port over `own`, and over the spaces that `spaces` names when asked."""

    def __init__(self, own: KafkaLag, spaces: Callable[[], Iterable[str]]) -> None:
        self._own = own
        self._spaces = spaces
        self._beside: dict[str, KafkaLag] = {}

    async def start(self) -> None:
        """Open `own`. Raises BrokerUnavailable, and TopicMismatch for an absent topic of it."""
        await self._own.start()

    async def stop(self) -> None:
        for source in (self._own, *self._beside.values()):
            await source.stop()

    async def lag(self) -> list[Lag]:
        """Return the rows of all spaces, those of `own` first. Raises BrokerUnavailable."""
        rows = await self._own.lag()
        wanted = dict.fromkeys(self._spaces())
        wanted.pop(self._own.names.space, None)
        for space in self._beside.keys() - wanted.keys():
            await self._beside.pop(space).stop()
        for space in wanted:
            source = self._beside.setdefault(space, self._own.for_space(space))
            try:
                rows += await source.lag()
            except (TidelensError, KafkaError) as error:
                # Its topics may be gone, or we may not read them: other rows are still valid.
                log.debug("no lag of a space beside", space=space, error=str(error))
        return rows

    def behind_s(self, lags: Sequence[Lag]) -> float:
        """Return the age of the oldest record that `own` misses: it alone answers searches."""
        return self._own.behind_s([lag for lag in lags if lag.space == self._own.names.space])
