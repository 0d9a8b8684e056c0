"""The passes of texts: each text is in one, no limit is exceeded, and padding saves time."""

from itertools import chain, pairwise, zip_longest
from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consumers.models.batching import PassLimits


def split(passes: PassLimits, lengths: list[int], rows_max: int) -> list[list[int]]:
    lengths, found = sorted(lengths), []
    while lengths:
        count = passes.first(lengths, rows_max)
        found.append(lengths[:count])
        del lengths[:count]
    return found


LENGTHS = st.lists(st.integers(1, 80), max_size=200)


@given(LENGTHS, st.integers(1, 70), st.integers(1, 700), st.integers(0, 100), st.integers(1, 8))
def test_within_the_limits_and_no_shorter_than_they_ask(
    lengths: list[int], rows_max: int, tokens_max: int, padding_max: int, step: int
) -> None:
    passes = PassLimits(step, tokens_max, padding_max)
    found = split(passes, lengths, rows_max)
    assert list(chain.from_iterable(found)) == sorted(lengths)
    for one, following in zip_longest(found, found[1:]):
        padded = [passes.padded(length) for length in one]
        assert len(one) <= rows_max
        assert len(one) == 1 or len(one) * padded[-1] <= tokens_max
        for count, (length, longer) in enumerate(pairwise(padded), start=1):
            assert count * (longer - length) <= padding_max
        if following is not None:
            longer = passes.padded(following[0])
            assert (
                len(one) == rows_max
                or (len(one) + 1) * longer > tokens_max
                or len(one) * (longer - padded[-1]) > padding_max
            )


@pytest.mark.parametrize(
    ("passes", "expected"),
    [
        (
            PassLimits(1, inf, 48),
            [[9] * 20, [12] * 20],
        ),  # 60 tokens of padding cost more than a pass
        (PassLimits(1, inf, 60), [[9] * 20 + [12] * 20]),
        (PassLimits(1, 240, inf), [[9] * 20, [12] * 20]),
        (PassLimits(16, inf, 0), [[9] * 20 + [12] * 20]),  # padded to 16 anyway
    ],
)
def test_by_hand(passes: PassLimits, expected: list[list[int]]) -> None:
    assert split(passes, [9, 12] * 20, 64) == expected
