"""Something else answers in place of S3: no picture is refused for good because of it."""

from collections.abc import AsyncIterator

import pytest
from blockbuster import BlockBuster

from consumers.references import ReferenceLimits, References
from contracts.errors import RejectedRecord
from tests.faults.fake_s3 import FOREIGN, FakeS3, fake_s3

pytestmark = pytest.mark.anyio

PICTURE = b"a picture"
LIMITS = ReferenceLimits(
    schemes=frozenset({"s3"}),
    bytes_max=1000,
    buckets=frozenset({"bucket"}),
    timeout_s=5,
    patience_s=0.0,
    given_up_s=0.0,
)


@pytest.fixture
async def s3(
    monkeypatch: pytest.MonkeyPatch, no_blocking_calls: BlockBuster
) -> AsyncIterator[FakeS3]:
    async with fake_s3(monkeypatch, no_blocking_calls) as fake:
        fake.blobs["a.png"] = PICTURE
        yield fake


async def code(references: References, ref: str) -> str:
    """Return the reason of the refusal, or the data where there is none."""
    try:
        async with references.read(ref, None) as data:
            return data.decode()
    except RejectedRecord as error:
        return error.code


async def test_only_s3_itself_can_say_that_a_picture_is_missing(s3: FakeS3) -> None:
    """All other answers are waited for, as for a store that is away."""
    async with References(LIMITS) as references:
        codes = {}
        for name, s3.foreign in FOREIGN.items():
            codes[name] = await code(references, "s3://bucket/a.png")
        assert codes == dict.fromkeys(FOREIGN, "reference_unreachable")
        s3.foreign = None
        assert await code(references, "s3://bucket/none.png") == "reference_missing"
        s3.denied = {"GetObject"}
        assert await code(references, "s3://bucket/a.png") == "reference_missing"
        s3.denied = set()
        assert await code(references, "s3://bucket/a.png") == PICTURE.decode()
