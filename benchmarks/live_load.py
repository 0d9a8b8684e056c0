"""The load of both sides of benchmarks.live_latency: the queries, and what changes.

Connections come in groups that ask for nearly the same, each with a vector of its own. Of each
group's hot items one changes at a time: it keeps its rank among the group's ten and gets another
vector, so that the list of every connection of the group, and of no other, is another one.
"""

from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from benchmarks import clip_like
from contracts.score import Vectors, unit

HOT = 10
# Vectors that a group's items take in turn: no multiple of HOT, so that an item takes them all.
_VECTORS = 201
# Scores of a group's queries against its items stay above 0.93, below that against all others.
_APART = 0.8
_QUERY_SPREAD = 0.05
_ITEM_SPREAD = (0.1, 0.35)


@dataclass(frozen=True, slots=True)
class Load:
    """`bare_bytes`: messages of this size from a bare server, instead of Tidelens."""

    connections: int
    corpus: int
    reach: int = 100
    bare_bytes: int | None = None

    @property
    def groups(self) -> int:
        return self.connections // self.reach

    def group_of(self, change: int) -> int:
        return change % self.groups

    def item_of(self, change: int) -> str:
        return f"hot/{self.group_of(change)}/{change // self.groups % HOT}"

    def vector_of(self, change: int) -> Vectors:
        found: Vectors = _items(self)[self.group_of(change), change // self.groups % _VECTORS]
        return found

    def queries(self) -> Vectors:
        """Return the queries of all connections, group by group."""
        dice = np.random.default_rng(1)
        rows = [_near(centre, [_QUERY_SPREAD] * self.reach, dice) for centre in _centres(self)]
        return np.concatenate(rows)


@cache
def _centres(load: Load) -> list[NDArray[np.float64]]:
    """Return real pictures, no two of them alike."""
    pictures, _ = clip_like.load()
    chosen: list[NDArray[np.float64]] = []
    for picture in pictures:
        if all(picture @ other < _APART for other in chosen):
            chosen.append(picture)
        if len(chosen) == load.groups:
            return chosen
    raise ValueError(f"want {load.groups} pictures that are not alike, got {len(chosen)}")


@cache
def _items(load: Load) -> Vectors:
    dice = np.random.default_rng(2)
    spreads = dice.uniform(*_ITEM_SPREAD, _VECTORS)
    return np.stack([_near(centre, spreads, dice) for centre in _centres(load)])


def _near(
    centre: NDArray[np.float64],
    spreads: "NDArray[np.float64] | list[float]",
    dice: np.random.Generator,
) -> Vectors:
    """Return a vector at each of these distances from the centre, in any direction."""
    noise = dice.standard_normal((len(spreads), len(centre)))
    noise /= np.linalg.norm(noise, axis=1, keepdims=True)
    return unit(centre + np.asarray(spreads)[:, None] * noise)
