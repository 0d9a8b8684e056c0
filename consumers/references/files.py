"""References to files: `file:` under allowed roots."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import unquote, urlsplit

from consumers.references.errors import reference_refused, reference_too_large, require_digest
from contracts.allowed_files import OutsideRoots, open_under, resolved_under


def read_reference(
    ref: str, sha256: str | None, *, allow_roots: Sequence[Path], bytes_max: int
) -> bytes:
    """Read the bytes that `ref` names, and check them against their SHA-256. This blocks.

    Raises RejectedRecord: reference_invalid, not_enabled, reference_forbidden, reference_missing,
    image_too_large_bytes, reference_changed.
    """
    path = _path_of(ref)
    with _translated(), open_under(path, allow_roots) as file:
        data = file.read(bytes_max + 1)
    if len(data) > bytes_max:
        raise reference_too_large(bytes_max)
    require_digest(data, sha256)
    return data


def allowed_path(ref: str, allow_roots: Sequence[Path]) -> Path:
    """Return where `ref` leads, whether or not a file is there. This blocks, to follow links.

    Raises RejectedRecord: reference_invalid, not_enabled, reference_forbidden, reference_missing.
    """
    path = _path_of(ref)
    with _translated():
        return resolved_under(path, allow_roots)


def _path_of(ref: str) -> Path:
    try:
        parts = urlsplit(ref)
    except ValueError as error:
        raise reference_refused("reference_invalid", f"not a URL ({error})") from None
    if parts.scheme != "file":
        got = parts.scheme or repr(ref)
        why = f"only file: references are enabled, got {got}"
        raise reference_refused("not_enabled", why, value=parts.scheme)
    if parts.netloc not in ("", "localhost"):
        why = f"a file: reference names no host, got {parts.netloc!r}"
        raise reference_refused("reference_forbidden", why, value=parts.netloc)
    return Path(unquote(parts.path))


@contextmanager
def _translated() -> Iterator[None]:
    """Turn the errors of the file system into RejectedRecord."""
    try:
        yield
    except OutsideRoots:
        why = "the file is outside the allowed roots (TIDELENS_ALLOW_ROOTS)"
        raise reference_refused("reference_forbidden", why) from None
    except OSError as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise reference_refused("reference_missing", f"cannot be read ({reason})") from None
