"""The turns of texts and pictures at the query encoder's model.

A picture takes the model ten times as long as a text. So pictures never share a batch with texts,
have at most every other turn while texts wait, and a batch of pictures is no larger than fits into
the length of a turn. A text waits for one such turn, however many pictures wait.
"""

import asyncio
from dataclasses import dataclass

from consumers.queries.encoder_process import QueryInput
from contracts.score import Vectors


@dataclass(slots=True)
class PendingQuery:
    """A query that waits for its vector."""

    key: bytes
    asked: QueryInput
    future: "asyncio.Future[Vectors]"

    @property
    def inputs(self) -> int:
        """The number of texts for the model, one for each template, or 1 for a picture."""
        return len(self.asked) if isinstance(self.asked, list) else 1


class QueryTurns:
    """The rules of turns, without I/O.

    `batch_max` limits the inputs of a batch, where a text counts once for each of its templates.
    `picture_turn_s` is the seconds that a batch of pictures should take.
    """

    def __init__(self, *, batch_max: int, picture_turn_s: float) -> None:
        self._batch_max = batch_max
        self._picture_turn_s = picture_turn_s
        self._texts: list[PendingQuery] = []
        self._pictures: list[PendingQuery] = []
        self._pictures_at_once = 1
        self._pictures_next = False

    def __len__(self) -> int:
        return len(self._texts) + len(self._pictures)

    @property
    def texts(self) -> int:
        """The number of texts that wait."""
        return len(self._texts)

    def add(self, waiting: PendingQuery) -> None:
        """Let a query wait, behind the others of its type."""
        (self._texts if isinstance(waiting.asked, list) else self._pictures).append(waiting)

    def take_batch(self) -> list[PendingQuery]:
        """Take the texts or the pictures that wait longest, by turns; the list may be empty."""
        # Queries that nobody awaits any more are dropped before they are encoded.
        self._texts = [waiting for waiting in self._texts if not waiting.future.done()]
        self._pictures = [waiting for waiting in self._pictures if not waiting.future.done()]
        of_pictures = bool(self._pictures) and (self._pictures_next or not self._texts)
        self._pictures_next = not of_pictures
        if of_pictures:
            return _take(self._pictures, self._pictures_at_once)
        return _take(self._texts, self._batch_max)

    def note_duration(self, batch: list[PendingQuery], seconds: float) -> None:
        """Note how long the model took, so that the next batch of pictures fits into its turn."""
        if isinstance(batch[0].asked, list):
            return
        fitting = int(self._picture_turn_s * len(batch) / max(seconds, 1e-6))
        # A batch that was fast by chance may at most double the next one.
        self._pictures_at_once = max(1, min(fitting, 2 * len(batch), self._batch_max))

    def clear(self) -> list[PendingQuery]:
        """Remove and return all queries that wait."""
        waiting = self._texts + self._pictures
        self._texts, self._pictures = [], []
        return waiting


def _take(queue: list[PendingQuery], inputs_max: int) -> list[PendingQuery]:
    """Take queries off the queue, up to `inputs_max` inputs but at least one query."""
    count = inputs = 0
    for waiting in queue:
        inputs += waiting.inputs
        if count and inputs > inputs_max:
            break
        count += 1
    taken = queue[:count]
    del queue[:count]
    return taken
