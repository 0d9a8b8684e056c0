"""Files as content events: pictures, captions in .txt files, and JSON Lines of both.

Ids are stable, so that publishing twice leaves one item: a file's id is its path below the
published folder, with forward slashes and its suffix (`cats/one.jpg`); a JSON line gives its own,
or has its picture's path. Files that differ only in their suffix belong together: their `item` is
that path without it, so a picture and its caption in `one.txt` can be collapsed into one.

A folder gives its pictures and .txt files, which tidelens/ingest/file_types.py recognizes. A JSON
Lines file is read when it is named itself: what lies beside the pictures it describes is usually
not meant twice.
"""

import hashlib
import os
from collections.abc import Iterator
from io import BufferedReader
from pathlib import Path, PurePosixPath
from typing import Any, NoReturn

from pydantic import BaseModel, ConfigDict, ValidationError

from contracts.allowed_files import NotRegular, OutsideRoots
from contracts.errors import RejectedRecord, TidelensError
from contracts.events.content_body import Image
from contracts.events.content_event import Content, content_record, key_of_id
from contracts.picture_formats import HEAD_BYTES, NAMES, require_format
from contracts.settings import ContentSettings
from contracts.topics import Target
from contracts.wire.data_uri import decode_base64, is_data_uri
from contracts.wire.exact_json import InexactNumberError, loads
from contracts.wire.validation import first_error
from tidelens.ingest.file_types import (
    CAPTIONS,
    LINES,
    FileType,
    PublishEntry,
    PublishSource,
    SkippedFile,
    UnreadableFolder,
    file_type_of,
    label,
)
from tidelens.ingest.text_files import decode_text, lines_of

# Base64 of the largest inline picture, and room for the rest.
_LINE_BYTES_MAX = 8 * 1024 * 1024
# The largest text file that is read: a caption may have far less.
_CAPTION_BYTES_MAX = 256 * 1024


class RefusedContent(TidelensError):
    """One file or line that is not published; `where` names it."""

    def __init__(self, where: str, code: str, message: str) -> None:
        super().__init__(f"{where}: {message}")
        self.where = where
        self.code = code
        self.message = message


class _Line(BaseModel):
    """One line of a JSON Lines file.

    `image` as a string is a path relative to the file, or a data: URI.
    """

    model_config = ConfigDict(extra="forbid", strict=True)

    id: str | None = None
    target: Target | None = None
    text: str | None = None
    image: Image | None = None
    item: str | None = None
    metadata: dict[str, Any] | None = None


def content_events_of(
    found: PublishEntry, settings: ContentSettings
) -> Iterator[Content | RefusedContent | SkippedFile]:
    """Yield the events of one file, or why there is none. Blocking; no file makes it raise."""
    if isinstance(found, SkippedFile):
        yield found
    elif isinstance(found, UnreadableFolder):
        yield _refused(_shown(found.path), found.error)
    else:
        yield from _of_source(found, settings)


def _of_source(
    source: PublishSource, settings: ContentSettings
) -> Iterator[Content | RefusedContent | SkippedFile]:
    path = source.path
    try:
        with source.open() as file:
            kind = file_type_of(path, file.read(HEAD_BYTES))
            file.seek(0)
            if kind is None or (kind is FileType.LINES and not source.named):
                yield _not_published(source, label(path.name))
            elif kind is FileType.LINES:
                yield from _lines(file, path, settings)
            else:
                item_id = path.relative_to(source.folder).as_posix()
                if kind is FileType.CAPTION:
                    yield _checked(_caption(file, item_id))
                else:
                    yield _checked(_picture(file, path, item_id, settings, item=_stem(item_id)))
    except OutsideRoots:
        yield SkippedFile("link out of the folder")
    except NotRegular:
        yield _not_published(source, "no regular file")
    except (RejectedRecord, OSError) as error:
        yield _refused(_shown(path), error)


def _not_published(source: PublishSource, kind: str) -> RefusedContent | SkippedFile:
    """Refuse a file that was named itself, and count one that only lies in a folder."""
    if not source.named:
        return SkippedFile(kind)
    suffixes = " ".join(sorted(CAPTIONS | LINES))
    return RefusedContent(
        _shown(source.path), "unknown_kind", f"neither a picture ({NAMES}) nor one of {suffixes}"
    )


def _lines(
    file: BufferedReader, path: Path, settings: ContentSettings
) -> Iterator[Content | RefusedContent]:
    shown = _shown(path)
    number = 0
    try:
        for number, line in enumerate(lines_of(file, _LINE_BYTES_MAX), 1):
            where = f"{shown}:{number}"
            if len(line) > _LINE_BYTES_MAX:
                yield RefusedContent(
                    where, "line_too_long", f"limit {_LINE_BYTES_MAX} bytes a line"
                )
                return  # where the next line begins is not known
            if not line.strip():
                continue
            try:
                yield _checked(_content_of_line(line, path.parent, settings))
            except (RejectedRecord, OSError) as error:
                yield _refused(where, error)
    except UnicodeDecodeError as error:
        yield RefusedContent(f"{shown}:{number + 1}", "not_text", f"not UTF-16 ({error.reason})")


def _content_of_line(raw: bytes, folder: Path, settings: ContentSettings) -> Content:
    """Return the event of one line. Raises RejectedRecord, or OSError for the file of a picture."""
    line = _parse_line(raw)
    target = _target_of(line)
    rest: dict[str, Any] = {"item": line.item, "metadata": line.metadata or {}}
    if isinstance(line.image, str) and not is_data_uri(line.image):
        item_id = PurePosixPath(line.image).as_posix() if line.id is None else line.id
        path = folder / line.image
        # The author of the JSON Lines file decides where its pictures are, so no folder bounds it.
        with PublishSource(path, path.parent).open() as file:
            return _picture(file, path, item_id, settings, **rest)
    if line.id is None:
        _invalid("id", "needed, since there is no path to take it from")
    if line.image is None:
        return Content(target=target, id=line.id, text=line.text, **rest)
    if isinstance(line.image, str):
        data = _inline(line.image, "image", settings)
    elif line.image.data is not None:
        data = _inline(line.image.data, "image.data", settings)
    else:
        ref, sha256 = line.image.ref, line.image.sha256
        return Content(target=target, id=line.id, ref=ref, sha256=sha256, **rest)
    return Content(target=target, id=line.id, image=data, **rest)


def _parse_line(raw: bytes) -> _Line:
    try:
        body = loads(raw, only="metadata")
        return _Line.model_validate(body)
    except ValidationError as error:
        fault = first_error(error, body)
        _invalid(fault.field or "line", fault.message)
    except InexactNumberError as error:
        _invalid(error.number.field or "line", error.number.message)
    except ValueError as error:
        raise RejectedRecord("invalid_json", f"not JSON ({error})") from None


def _target_of(line: _Line) -> Target:
    """Return the target. Raises RejectedRecord if the line lacks its content or has another's."""
    target: Target = line.target or ("captions" if line.image is None else "images")
    wanted, other = (line.text, line.image) if target == "captions" else (line.image, line.text)
    if wanted is None or other is not None:
        needed = "text" if target == "captions" else "image"
        _invalid(needed, f"target {target} needs it, and nothing else")
    return target


def _inline(encoded: str, field: str, settings: ContentSettings) -> bytes:
    """Return the bytes of a picture in base64. Raises RejectedRecord beyond `inline_bytes_max`."""
    data = decode_base64(encoded, field)
    if len(data) > settings.inline_bytes_max:
        _too_large(field, settings.inline_bytes_max, len(data))
    return data


def _picture(
    file: BufferedReader, path: Path, item_id: str, settings: ContentSettings, **rest: Any
) -> Content:
    """Put a picture into its event up to the limit; above it, refer to the file and its SHA-256."""
    key_of_id(item_id)
    size = os.fstat(file.fileno()).st_size
    if size == 0:
        raise RejectedRecord("empty_file", "the file is empty")
    if size > settings.image_bytes_max:
        _too_large("picture", settings.image_bytes_max, size)
    if size <= settings.inline_bytes_max:
        data = file.read(size)
        require_format(data)  # what every encoder would refuse is not published
        return Content(target="images", id=item_id, image=data, **rest)
    require_format(file.read(HEAD_BYTES))
    file.seek(0)
    digest = hashlib.file_digest(file, "sha256").hexdigest()
    ref = path.resolve().as_uri()
    return Content(target="images", id=item_id, ref=ref, sha256=digest, **rest)


def _caption(file: BufferedReader, item_id: str) -> Content:
    key_of_id(item_id)
    data = file.read(_CAPTION_BYTES_MAX + 1)
    if len(data) > _CAPTION_BYTES_MAX:
        _invalid("text", f"limit {_CAPTION_BYTES_MAX} bytes, got more")
    try:
        text = decode_text(data).strip()
    except UnicodeDecodeError as error:
        raise RejectedRecord("not_text", f"not {error.encoding.upper()} ({error.reason})") from None
    return Content(target="captions", id=item_id, text=text, item=_stem(item_id))


def _checked(content: Content) -> Content:
    """Return the content. Raises RejectedRecord for one that readers would dead-letter."""
    content_record("", content)
    return content


def _stem(item_id: str) -> str:
    return PurePosixPath(item_id).with_suffix("").as_posix()


def _invalid(field: str, message: str) -> NoReturn:
    raise RejectedRecord("invalid_content", f"{field}: {message}", field=field)


def _too_large(field: str, limit: int, size: int) -> NoReturn:
    raise RejectedRecord.over("image_too_large_bytes", limit, size, field=field, unit="bytes")


def _refused(where: str, error: RejectedRecord | OSError) -> RefusedContent:
    if isinstance(error, RejectedRecord):
        return RefusedContent(where, error.code, error.message)
    if isinstance(error, FileNotFoundError):
        return RefusedContent(where, "unreadable", "there is no such file or folder")
    reason = getattr(error, "strerror", None) or str(error)
    return RefusedContent(where, "unreadable", f"cannot be read ({reason})")


def _shown(path: Path) -> str:
    """Return a path as text for people, whatever bytes the file system has in it."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")
