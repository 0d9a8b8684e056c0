"""Pictures by reference: `file:` under allowed roots; other schemes are refused by name.

`https:` and `s3:` come with their own protections later; until then they are `not_enabled`, so
that nobody's encoder can be made to fetch what a stranger names.
"""

import hashlib
import stat
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import unquote, urlsplit

from contracts.errors import RejectedRecord


def read_reference(
    ref: str, sha256: str | None, *, allow_roots: Sequence[Path], bytes_max: int
) -> bytes:
    """The bytes that `ref` names, checked against their SHA-256. Blocking.

    Raises RejectedRecord: reference_invalid, not_enabled, reference_forbidden, reference_missing,
    image_too_large_bytes, reference_changed.
    """
    try:
        parts = urlsplit(ref)
    except ValueError as error:
        raise RejectedRecord(
            "reference_invalid", f"image.ref: not a URL ({error})", field="image.ref"
        ) from None
    if parts.scheme != "file":
        raise RejectedRecord(
            "not_enabled",
            f"image.ref: only file: references are enabled, got {parts.scheme or ref!r}",
            field="image.ref",
            value=parts.scheme,
        )
    if parts.netloc not in ("", "localhost"):
        raise _forbidden(f"a file: reference names no host, got {parts.netloc!r}")
    # Resolved before it is compared, so that neither `..` nor a link leads out of a root.
    try:
        path = Path(unquote(parts.path)).resolve()
        if not any(path.is_relative_to(root.resolve()) for root in allow_roots):
            raise _forbidden("the file is outside the allowed roots (TIDELENS_ALLOW_ROOTS)")
        # Opening a pipe would wait for whoever writes to it, for ever.
        if not stat.S_ISREG(path.stat().st_mode):
            raise OSError("not a regular file")
        with path.open("rb") as file:
            data = file.read(bytes_max + 1)
    except (OSError, ValueError, RuntimeError) as error:  # RuntimeError: links in a circle
        reason = getattr(error, "strerror", None) or str(error)
        raise RejectedRecord(
            "reference_missing", f"image.ref: cannot be read ({reason})", field="image.ref"
        ) from None
    if len(data) > bytes_max:
        raise RejectedRecord(
            "image_too_large_bytes",
            f"image.ref: limit {bytes_max} bytes, got more",
            field="image.ref",
            limit=bytes_max,
        )
    found = hashlib.sha256(data).hexdigest()
    if sha256 is not None and found != sha256:
        raise RejectedRecord(
            "reference_changed",
            f"image.sha256: published {sha256}, the file has {found}",
            field="image.sha256",
            limit=sha256,
            value=found,
        )
    return data


def _forbidden(why: str) -> RejectedRecord:
    return RejectedRecord("reference_forbidden", f"image.ref: {why}", field="image.ref")
