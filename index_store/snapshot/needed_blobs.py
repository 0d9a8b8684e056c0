"""The blobs that each snapshot of a replica needs, and those of them that a store lacks.

A store loses blobs that it had: a lifecycle rule deletes them by age, or somebody tidies a bucket.
Another server may answer instead of it, and confirm writes that were never made. So every blob that
a manifest names is looked up in a listing.
"""

from collections.abc import Iterable, Mapping
from typing import Any

# The sizes of blobs in bytes, by their names below the replica's prefix.
BlobSizes = Mapping[str, int]


class SnapshotBlobs:
    """The blobs of each snapshot, by its name; None for one that could not be read."""

    def __init__(self) -> None:
        self._needs: dict[str, BlobSizes | None] = {}

    def __setitem__(self, name: str, needs: BlobSizes | None) -> None:
        self._needs[name] = needs

    def __contains__(self, name: str) -> bool:
        """Return whether it is known what this snapshot needs."""
        return self._needs.get(name) is not None

    @property
    def newest(self) -> str | None:
        """The name of the newest snapshot, if any."""
        return max(self._needs, default=None)

    def forget(self, name: str) -> None:
        """Forget a snapshot, if it is known."""
        self._needs.pop(name, None)

    def retain(self, names: Iterable[str]) -> None:
        """Forget all snapshots but these."""
        self._needs = {name: self._needs[name] for name in names if name in self._needs}

    def parts(self) -> set[str] | None:
        """Return the names of all needed segments, or None if a snapshot could not be read."""
        if None in self._needs.values():
            return None
        blobs = {blob for needs in self._needs.values() for blob in needs or ()}
        return {blob.split("/")[1] for blob in blobs if blob.startswith("parts/")}

    def incomplete(self, there: Mapping[str, int]) -> dict[str, list[str]]:
        """Return the blobs that each snapshot lacks in a store with the blobs `there`."""
        incomplete = {
            name: missing_blobs(needs or {}, there) for name, needs in sorted(self._needs.items())
        }
        return {name: blobs for name, blobs in incomplete.items() if blobs}


def blobs_of(name: str, manifest: Mapping[str, Any], manifest_bytes: int) -> BlobSizes:
    """Return the blobs that the snapshot `name` needs, including the manifest itself."""
    blobs = [blob for part in manifest["parts"] for blob in part["blobs"]]
    return {
        f"{name}/manifest.json": manifest_bytes,
        f"{name}/alive": manifest["alive"]["bytes"],
        **{blob["name"]: blob["bytes"] for blob in blobs},
    }


def missing_blobs(needs: BlobSizes, there: Mapping[str, int]) -> list[str]:
    """Return the names of the blobs that are missing, or have another size."""
    return [name for name, size in needs.items() if there.get(name) != size]
