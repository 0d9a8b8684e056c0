"""The state that an answer stands for: cursors and clients name it too, and load no numpy."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from contracts.topics import Target


@dataclass(frozen=True, slots=True)
class AsOf:
    """The state that an answer stands for: the index is a function of these offsets alone.

    `offsets` are positions in the embeddings partitions: target -> one number per partition.
    `epoch` names the log itself; it changes when a topic is recreated.
    """

    space: str
    epoch: str
    offsets: Mapping[Target, Sequence[int]]

    def covers(self, other: "AsOf") -> bool:
        """Whether this state is at or past `other` in every partition."""
        return all(
            mine >= theirs
            for target, offsets in other.offsets.items()
            for mine, theirs in zip(self.offsets[target], offsets, strict=True)
        )
