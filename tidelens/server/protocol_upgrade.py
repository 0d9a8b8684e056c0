"""Read requests that offer an upgrade, such as to h2c, as if they did not.

Java's HttpClient offers h2c with its first request, and the parser treats the body of such a
request as data of the other protocol.
"""

from collections.abc import Iterable

_OFFERING = (b"connection", b"upgrade", b"http2-settings")


def without_upgrade(
    method: bytes, url: bytes, version: str, headers: Iterable[tuple[bytes, bytes]]
) -> bytes:
    """Return the head of the request without the offer, for a new parser."""
    lines = [method + b" " + url + b" HTTP/" + version.encode()]
    lines += [name + b": " + value for name, value in headers if name not in _OFFERING]
    return b"\r\n".join([*lines, b"", b""])
