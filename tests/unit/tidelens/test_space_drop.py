"""`tidelens space drop` refuses a space that is not there to be dropped, and says what to do."""

from typing import Any, cast

import pytest

from contracts.errors import UsageError
from contracts.events.control_record import ActiveSpace, SpaceRef
from streams.registry.control_topic import Control
from tidelens.migration.switch import drop

pytestmark = pytest.mark.anyio

ACTIVE = SpaceRef("new-1", "new", 48)
BEFORE = SpaceRef("old-1", "old", 48)


class Collection:
    """A collection whose control topic has said which space is active."""

    async def control(self) -> Control:
        return Control(active=ActiveSpace(ACTIVE, BEFORE, 1.0))


@pytest.mark.parametrize(
    ("space", "message"),
    [
        (
            "new-1",
            "space new-1 is active and cannot be dropped; first make another space active with "
            "`tidelens space switch` or `tidelens space rollback`",
        ),
        (
            "other-1",
            "space other-1 is neither being made nor kept for a rollback; "
            "`tidelens space status` lists the spaces",
        ),
    ],
)
async def test_a_refusal_says_what_to_do(space: str, message: str) -> None:
    with pytest.raises(UsageError) as refused:
        await drop(cast(Any, Collection()), space)
    assert str(refused.value) == message
