"""What answers in S3's place: a small S3 over a dictionary, and whatever else may be there.

For answers that no real server can be made to give; tests/s3_fixture.py has real ones.
"""

import asyncio
import contextlib
import hashlib
import urllib.parse
from collections.abc import Callable, Mapping
from xml.sax.saxutils import escape

import pytest
from blockbuster import BlockBuster

from index_store import s3

PAGE = b"<html><head><title>Sign in</title></head><body>Sign in</body></html>"
XML = b'<?xml version="1.0" encoding="UTF-8"?>'


def answer(status: str, body: bytes = b"", **headers: str) -> bytes:
    """An HTTP response; `headers` have _ for -."""
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode() + body


# Of proxies without a server behind them, login pages, and servers that break off.
FOREIGN: Mapping[str, bytes] = {
    "an ingress without a backend": answer("404 Not Found", b"default backend - 404"),
    "a page that is not there": answer("404 Not Found", PAGE, Content_Type="text/html"),
    "an empty 404": answer("404 Not Found"),
    "a login page": answer("200 OK", PAGE, Content_Type="text/html"),
    "a page that is not XML": answer("200 OK", b"<p>Sign in<br></html>", Content_Type="text/html"),
    "an empty 200": answer("200 OK"),
    "JSON": answer("200 OK", b'{"error": "unknown"}', Content_Type="application/json"),
    "an empty 500": answer("500 Internal Server Error"),
    "an empty 503": answer("503 Service Unavailable"),
    "an empty 403": answer("403 Forbidden"),
    "a 301 to nowhere": answer("301 Moved Permanently"),
    "a 301": answer("301 Moved Permanently", PAGE, Location="http://127.0.0.1:9/"),
    "a 302 to a login": answer("302 Found", Location="/login"),
    "truncated XML": answer("200 OK", XML + b"<ListBucketResult><Contents><Key>a"),
    "a listing of nothing sensible": answer(
        "200 OK", XML + b"<ListBucketResult><Name>b</Name><Contents/></ListBucketResult>"
    ),
    "an error without words": answer("400 Bad Request", XML + b"<Error></Error>"),
    "another protocol": b"SSH-2.0-OpenSSH_9.6\r\n",
    "half a header": b"HTTP/1.1 200 O",
    "nothing": b"",
}


class FakeS3:
    """`foreign` answers each request in its place while it is set.

    `forgets` says of a key that a write of it is answered as always, and not kept.
    """

    def __init__(self) -> None:
        self.blobs: dict[str, bytes] = {}
        self.foreign: bytes | None = None
        self.forgets: Callable[[str], bool] = lambda key: False

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while await self._answer(reader, writer):
                pass
        writer.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        method, target, *_ = head.split(" ", 2)
        length = 0
        for line in head.lower().splitlines():
            name, _, value = line.partition(":")
            if name == "content-length":
                length = int(value)
            if name == "expect":
                writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        data = await reader.readexactly(length)
        answered = self._to(method, target, data) if self.foreign is None else self.foreign
        headers, end, _ = answered.partition(b"\r\n\r\n")
        writer.write(headers + end if method == "HEAD" else answered)
        await writer.drain()
        return bool(end)

    def _to(self, method: str, target: str, data: bytes) -> bytes:
        url = urllib.parse.urlsplit(target)
        asked = dict(urllib.parse.parse_qsl(url.query, keep_blank_values=True))
        key = urllib.parse.unquote(url.path).removeprefix("/bucket").removeprefix("/")
        if "list-type" in asked:
            return answer("200 OK", self._listing(asked.get("prefix", "")))
        if method == "PUT":
            if not self.forgets(key):
                self.blobs[key] = data
            return answer("200 OK", ETag=f'"{hashlib.md5(data).hexdigest()}"')
        if method == "DELETE":
            self.blobs.pop(key, None)
            return answer("204 No Content")
        if key not in self.blobs:
            return answer("404 Not Found", XML + b"<Error><Code>NoSuchKey</Code></Error>")
        found = self.blobs[key]
        return answer("200 OK", found, ETag=f'"{hashlib.md5(found).hexdigest()}"')

    def _listing(self, prefix: str) -> bytes:
        found = "".join(
            f"<Contents><Key>{escape(key)}</Key><Size>{len(data)}</Size></Contents>"
            for key, data in sorted(self.blobs.items())
            if key.startswith(prefix)
        )
        body = f"<ListBucketResult><IsTruncated>false</IsTruncated>{found}</ListBucketResult>"
        return XML + body.encode()


def point_to(port: int, monkeypatch: pytest.MonkeyPatch, no_blocking_calls: BlockBuster) -> None:
    """Let the AWS variables name a server at `port`, which is asked once."""
    for function in no_blocking_calls.functions.values():
        function.can_block_in("aiobotocore/session.py", {"_create_client"})
    monkeypatch.setattr(s3, "_ATTEMPTS", 0)
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", f"http://127.0.0.1:{port}")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
