"""The spaces of a collection: the active one, the one before it, and the one that is being made."""

from dataclasses import dataclass
from typing import Literal

from contracts.events.control_record import SpaceRef
from tidelens.migration.collection import OpenCollection
from tidelens.migration.switch import active_space, has_encoder


@dataclass(frozen=True, slots=True)
class SpaceStatus:
    """One space and its part in the collection.

    `since` is when it became active, or when its making began, in seconds since 1970. It is None
    for a space that is active by the settings alone, and for the previous one. `encoded` says
    whether every record that there was has been encoded.
    """

    ref: SpaceRef
    state: Literal["active", "previous", "candidate"]
    since: float | None
    encoded: bool
    has_encoder: bool


async def space_status(collection: OpenCollection, model: str) -> list[SpaceStatus]:
    """Return the spaces that are kept, the active one first.

    Before the first switch the active space is that of `model`. Raises ConfigurationError if no
    node serves it.
    """
    control = await collection.control()
    current = await active_space(collection, model)
    since = None if control.active is None else control.active.at
    found = [SpaceStatus(current, "active", since, True, await has_encoder(collection, current))]
    if control.active is not None and control.active.previous is not None:
        previous = control.active.previous
        encoder = await has_encoder(collection, previous)
        found.append(SpaceStatus(previous, "previous", None, True, encoder))
    made = control.candidate
    if made is not None and made.ref != current:
        encoder = await has_encoder(collection, made.ref)
        encoded = made.encoded_at is not None
        found.append(SpaceStatus(made.ref, "candidate", made.started_at, encoded, encoder))
    return found
