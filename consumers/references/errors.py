"""The rejections of references, each of which names the field, the limit and the value."""

import hashlib
from typing import Any

from contracts.errors import RejectedRecord

_VALUE_CHARS_MAX = 200


def reference_refused(
    code: str, why: str, *, limit: Any = None, value: Any = None
) -> RejectedRecord:
    """Return a rejection that says what is wrong with `image.ref`; long values are cut."""
    if isinstance(value, str):
        value = _text(value)[:_VALUE_CHARS_MAX]
    why = f"image.ref: {_text(why)}"
    return RejectedRecord(code, why, field="image.ref", limit=limit, value=value)


def _text(quoted: str) -> str:
    """Escape lone surrogates, which a server's headers may hold and JSON may not."""
    return quoted.encode("utf-8", "backslashreplace").decode()


def reference_too_large(bytes_max: int, size: int | None = None) -> RejectedRecord:
    """Return the rejection of a picture beyond `bytes_max`; None is a size that is not known."""
    got = "more" if size is None else size
    why = f"limit {bytes_max} bytes, got {got}"
    return reference_refused("image_too_large_bytes", why, limit=bytes_max, value=size)


def require_digest(data: bytes, sha256: str | None) -> None:
    """Raise RejectedRecord `reference_changed` unless `data` has the published SHA-256, in hex.

    None as the SHA-256 means that none was published.
    """
    if sha256 is None:
        return
    found = hashlib.sha256(data).hexdigest()
    if found != sha256:
        raise RejectedRecord(
            "reference_changed",
            f"image.sha256: published {sha256}, the picture has {found}",
            field="image.sha256",
            limit=sha256,
            value=found,
        )
