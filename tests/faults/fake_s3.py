"""A small S3 over a dictionary, and other servers that may answer instead of S3.

It gives answers that no real server can be made to give; tests/kits/s3_fixture.py has real ones.
"""

# ruff: noqa: N802 - the methods have S3's own names

import asyncio
import contextlib
import hashlib
import urllib.parse
from collections.abc import AsyncIterator, Callable, Mapping
from xml.sax.saxutils import escape

import pytest
from blockbuster import BlockBuster

PAGE = b"<html><head><title>Sign in</title></head><body>Sign in</body></html>"
XML = b'<?xml version="1.0" encoding="UTF-8"?>'


def answer(status: str, body: bytes = b"", **headers: str) -> bytes:
    """Build an HTTP response; in the names of `headers`, _ stands for -."""
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode() + body


# Answers of proxies without a server behind them, login pages, and servers that break off.
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

    While it `hangs`, it takes requests and says nothing. `forgets` says of a key that a write of it
    is answered as always, and not kept; `denied` are the operations that are answered with
    AccessDenied.
    """

    def __init__(self) -> None:
        self.blobs: dict[str, bytes] = {}
        self.uploads: dict[str, dict[int, bytes]] = {}
        self.foreign: bytes | None = None
        self.denied: set[str] = set()
        self.hangs = False
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
        if self.hangs:
            await reader.read()  # until the client goes
            return False
        answered = self._to(method, target, data) if self.foreign is None else self.foreign
        headers, end, _ = answered.partition(b"\r\n\r\n")
        writer.write(headers + end if method == "HEAD" else answered)
        await writer.drain()
        return bool(end)

    def _to(self, method: str, target: str, data: bytes) -> bytes:
        url = urllib.parse.urlsplit(target)
        asked = dict(urllib.parse.parse_qsl(url.query, keep_blank_values=True))
        key = urllib.parse.unquote(url.path).removeprefix("/bucket").removeprefix("/")
        operation = _operation(method, asked)
        if operation in self.denied:
            denied = b"<Error><Code>AccessDenied</Code><Message>not allowed</Message></Error>"
            return answer("403 Forbidden", XML + denied)
        answered: bytes = getattr(self, operation)(key, data, asked)
        return answered

    def ListObjectsV2(self, key: str, data: bytes, asked: Mapping[str, str]) -> bytes:
        return answer("200 OK", self._listing(asked.get("prefix", "")))

    def PutObject(self, key: str, data: bytes, asked: Mapping[str, str]) -> bytes:
        if not self.forgets(key):
            self.blobs[key] = data
        return answer("200 OK", ETag=_etag(data))

    def GetObject(self, key: str, data: bytes, asked: Mapping[str, str]) -> bytes:
        if key not in self.blobs:
            return answer("404 Not Found", XML + b"<Error><Code>NoSuchKey</Code></Error>")
        return answer("200 OK", self.blobs[key], ETag=_etag(self.blobs[key]))

    def DeleteObject(self, key: str, data: bytes, asked: Mapping[str, str]) -> bytes:
        self.blobs.pop(key, None)
        return answer("204 No Content")

    def CreateMultipartUpload(self, key: str, data: bytes, asked: Mapping[str, str]) -> bytes:
        upload = f"upload-{len(self.uploads)}"
        self.uploads[upload] = {}
        of = f"<UploadId>{upload}</UploadId>".encode()
        return answer("200 OK", XML + b"<R>" + of + b"</R>")

    def UploadPart(self, key: str, data: bytes, asked: Mapping[str, str]) -> bytes:
        self.uploads[asked["uploadId"]][int(asked["partNumber"])] = data
        return answer("200 OK", ETag=_etag(data))

    def CompleteMultipartUpload(self, key: str, data: bytes, asked: Mapping[str, str]) -> bytes:
        parts = self.uploads.pop(asked["uploadId"])
        self.blobs[key] = b"".join(parts[number] for number in sorted(parts))
        return answer("200 OK", XML + b'<R><ETag>"1"</ETag></R>')

    def AbortMultipartUpload(self, key: str, data: bytes, asked: Mapping[str, str]) -> bytes:
        del self.uploads[asked["uploadId"]]
        return answer("204 No Content")

    def _listing(self, prefix: str) -> bytes:
        found = "".join(
            f"<Contents><Key>{escape(key)}</Key><Size>{len(data)}</Size></Contents>"
            for key, data in sorted(self.blobs.items())
            if key.startswith(prefix)
        )
        body = f"<ListBucketResult><IsTruncated>false</IsTruncated>{found}</ListBucketResult>"
        return XML + body.encode()


def _operation(method: str, asked: Mapping[str, str]) -> str:
    """Return the name that S3 has for the operation."""
    if "list-type" in asked:
        return "ListObjectsV2"
    if "uploads" in asked:
        return "CreateMultipartUpload"
    if "uploadId" in asked:
        of = {"PUT": "UploadPart", "POST": "CompleteMultipartUpload"}
        return of.get(method, "AbortMultipartUpload")
    return {"PUT": "PutObject", "DELETE": "DeleteObject"}.get(method, "GetObject")


def _etag(data: bytes) -> str:
    return f'"{hashlib.md5(data).hexdigest()}"'


def point_to(port: int, monkeypatch: pytest.MonkeyPatch, no_blocking_calls: BlockBuster) -> None:
    """Let the AWS variables name a server at `port`."""
    for function in no_blocking_calls.functions.values():
        function.can_block_in("aiobotocore/session.py", {"_create_client"})
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", f"http://127.0.0.1:{port}")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")


@contextlib.asynccontextmanager
async def fake_s3(
    monkeypatch: pytest.MonkeyPatch, no_blocking_calls: BlockBuster
) -> AsyncIterator[FakeS3]:
    """Serve a FakeS3 on a port of its own, which the AWS variables name."""
    fake = FakeS3()
    listening = await asyncio.start_server(fake.serve, "127.0.0.1", 0)
    point_to(listening.sockets[0].getsockname()[1], monkeypatch, no_blocking_calls)
    yield fake
    listening.close()
