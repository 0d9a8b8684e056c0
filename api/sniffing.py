"""The format of a picture by its first bytes: nothing else is ever served as an image."""


def media_type_of(data: bytes) -> str | None:
    """The media type, or None for anything but JPEG, PNG, WebP, GIF and BMP."""
    if data[:3] == b"\xff\xd8\xff":
        return "image/jpeg"
    if data[:8] == b"\x89PNG\r\n\x1a\n":
        return "image/png"
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "image/webp"
    if data[:6] in (b"GIF87a", b"GIF89a"):
        return "image/gif"
    if data[:2] == b"BM":
        return "image/bmp"
    return None
