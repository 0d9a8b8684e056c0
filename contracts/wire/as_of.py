"""The state that an answer stands for. Clients import this module, so it loads no numpy."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from contracts.topics import Target


@dataclass(frozen=True, slots=True)
class AsOf:
    """The state that an answer stands for: the index is a function of these positions alone.

    `offsets` holds, for each target, the position in each embeddings partition. `epoch` identifies
    the log; it changes when a topic is recreated.
    """

    space: str
    epoch: str
    offsets: Mapping[Target, Sequence[int]]

    def covers(self, other: "AsOf") -> bool:
        """Return whether this state is at or past `other` in every partition.

        Both must have the same targets and numbers of partitions.
        """
        return all(
            mine >= theirs
            for target, offsets in other.offsets.items()
            for mine, theirs in zip(self.offsets[target], offsets, strict=True)
        )
