"""The counts of names over a sliding window, for figures that are approximate by nature."""

from collections import Counter, deque


class WindowedCounts:
    """The number of times each name was added in the last `window_s` s, in one-minute buckets."""

    def __init__(self, window_s: float = 3600.0, bucket_s: float = 60.0) -> None:
        self._window_s = window_s
        self._bucket_s = bucket_s
        self._buckets: deque[tuple[float, Counter[str]]] = deque()

    def add(self, name: str, now: float) -> None:
        start = now - now % self._bucket_s
        if not self._buckets or self._buckets[-1][0] < start:
            self._buckets.append((start, Counter()))
        self._buckets[-1][1][name] += 1
        self._forget(now)

    def totals(self, now: float) -> dict[str, int]:
        self._forget(now)
        total: Counter[str] = Counter()
        for _, counts in self._buckets:
            total.update(counts)
        return dict(total)

    def _forget(self, now: float) -> None:
        while self._buckets and self._buckets[0][0] + self._bucket_s <= now - self._window_s:
            self._buckets.popleft()
