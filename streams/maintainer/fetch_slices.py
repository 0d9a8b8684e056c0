"""The division of a fetch into slices that are applied one at a time."""

from collections.abc import Iterator

from contracts.events.record import Fetched


def split_fetched(fetched: Fetched, records_max: int) -> Iterator[Fetched]:
    """Split `fetched` into slices of at most `records_max` records.

    Each slice leaves a true state: its positions are those right after its records. The last slice
    has no records, and the final positions.
    """
    for partition, records in fetched.records.items():
        for start in range(0, len(records), records_max):
            piece = records[start : start + records_max]
            yield Fetched({partition: piece}, {partition: piece[-1].offset + 1})
    yield Fetched({}, fetched.positions)
