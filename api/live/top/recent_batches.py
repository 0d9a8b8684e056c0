"""The applied batches that searches under way may not have seen. No I/O."""

from collections import deque

from api.live.batch_match import MatchBatch


class RecentBatches:
    """Batches in the order of their numbers, at most `rows_max` rows of them."""

    def __init__(self, rows_max: int) -> None:
        self._rows_max = rows_max
        self._batches: deque[MatchBatch] = deque()
        self._rows = 0
        # The number of the last batch that was dropped for want of room.
        self._dropped = 0

    def __len__(self) -> int:
        return len(self._batches)

    def add(self, batch: MatchBatch) -> None:
        """Keep a batch, and drop the oldest ones if there are too many rows."""
        self._batches.append(batch)
        self._rows += batch.rows
        while self._rows > self._rows_max:
            self._dropped = self._pop().number

    def after(self, number: int) -> list[MatchBatch] | None:
        """Return the batches after this number, or None if one of them was dropped."""
        if number < self._dropped:
            return None
        return [batch for batch in self._batches if batch.number > number]

    def forget(self, number: int) -> None:
        """Remove the batches up to this number, which no search needs any longer."""
        while self._batches and self._batches[0].number <= number:
            self._pop()

    def _pop(self) -> MatchBatch:
        batch = self._batches.popleft()
        self._rows -= batch.rows
        return batch
