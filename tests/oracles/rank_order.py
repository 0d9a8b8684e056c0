"""The order of an answer, as the pages state it."""

from collections.abc import Sequence

from contracts.score import Scores


def rank_order(scores: Scores, ids: Sequence[str]) -> list[int]:
    """Return the indices in the order of an answer: by score descending, then by id ascending."""
    return sorted(range(len(ids)), key=lambda i: (-scores[i], ids[i]))
