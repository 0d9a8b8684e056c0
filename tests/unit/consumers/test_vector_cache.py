"""The cache of vectors: the last ones asked for, under the digest of their input."""

from collections import OrderedDict

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from consumers.vector_cache import VectorCache

DIM = 4


def vector(number: int) -> np.ndarray:
    return np.full(DIM, number, np.float16)


# Of few digests, each with its own vector, into a cache of three.
@given(st.lists(st.tuples(st.booleans(), st.integers(0, 6))))
def test_it_is_an_lru_cache(steps: list[tuple[bool, int]]) -> None:
    known, model = VectorCache(3), OrderedDict[int, int]()
    for n, (puts, number) in enumerate(steps):
        digest = bytes([number])
        if puts:
            known.put(digest, vector(n))
            model[number] = n
            model.move_to_end(number)
            if len(model) > 3:
                model.popitem(last=False)
        else:
            found = known.get(digest)
            assert (found is None) == (number not in model)
            if found is not None:
                assert (found == vector(model[number])).all()
                model.move_to_end(number)
        assert len(known) == len(model)


def test_what_was_given_out_stays_when_its_place_is_taken() -> None:
    known = VectorCache(1)
    known.put(b"a", vector(1))
    found = known.get(b"a")
    known.put(b"b", vector(2))
    assert found is not None and (found == vector(1)).all()
    assert known.get(b"a") is None


def test_a_cache_of_none_keeps_none() -> None:
    known = VectorCache(0)
    known.put(b"a", vector(1))
    assert known.get(b"a") is None and len(known) == 0
