"""A second real S3 server for tests: versitygw, whose users, policies and listings are S3's.

Built once from the Go module proxy, which takes more than a minute of two cores.
"""

import asyncio
import subprocess
import uuid
from dataclasses import dataclass
from pathlib import Path

import httpx
import orjson
from aiobotocore.session import get_session

from contracts.user_folders import user_cache_dir

_VERSION = "v1.8.0"
_BUILD_S = 900
_READY_S = 60
_SECRET = "secret-of-the-root-user"


async def versitygw() -> Path:
    """Return the program; build it where it is not yet there."""
    folder = user_cache_dir() / f"versitygw-{_VERSION}"
    program = folder / "versitygw"
    if not program.exists():
        folder.mkdir(parents=True, exist_ok=True)
        process = await asyncio.create_subprocess_exec(
            "env",
            f"GOBIN={folder}",
            "go",
            "install",
            f"github.com/versity/versitygw/cmd/versitygw@{_VERSION}",
        )
        async with asyncio.timeout(_BUILD_S):
            if await process.wait():
                raise SystemExit("versitygw could not be built; the option --s3 s3mock needs no Go")
    return program


@dataclass
class VersityServer:
    """One server on a port of its own; its contents outlive a stop and a start."""

    folder: Path
    program: Path
    port: int
    process: "asyncio.subprocess.Process | None" = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def environment(self) -> dict[str, str]:
        """Return the standard AWS variables for its root user."""
        return self.environment_of("key", _SECRET)

    def environment_of(self, key: str, secret: str) -> dict[str, str]:
        return {
            "AWS_ENDPOINT_URL_S3": self.url,
            "AWS_ACCESS_KEY_ID": key,
            "AWS_SECRET_ACCESS_KEY": secret,
            "AWS_DEFAULT_REGION": "us-east-1",
        }

    async def start(self) -> None:
        """Start the server if it does not run, and wait until it answers."""
        if self.process is not None and self.process.returncode is None:
            return
        for name in ("store", "users"):
            (self.folder / name).mkdir(exist_ok=True)
        with (self.folder / "versitygw.log").open("ab") as log:
            self.process = await asyncio.create_subprocess_exec(
                str(self.program),
                *("--access", "key", "--secret", _SECRET),
                *("--port", f"127.0.0.1:{self.port}", "--health", "/healthz", "--quiet"),
                *("--iam-dir", str(self.folder / "users")),
                *("posix", str(self.folder / "store")),
                stdout=log,
                stderr=log,
            )
        async with asyncio.timeout(_READY_S), httpx.AsyncClient() as client:
            while True:
                try:
                    if (await client.get(f"{self.url}/healthz")).status_code == 200:
                        return
                except httpx.HTTPError:
                    assert self.process.returncode is None, "versitygw ended"
                await asyncio.sleep(0.1)

    async def stop(self) -> None:
        if self.process is not None and self.process.returncode is None:
            self.process.kill()
            await self.process.wait()

    async def new_bucket(self) -> str:
        name = f"bucket-{uuid.uuid4().hex[:12]}"
        async with self._client() as client:
            await client.create_bucket(Bucket=name)
        return name

    async def objects(self, bucket: str, prefix: str = "") -> dict[str, int]:
        """Return the size in bytes of each object, by its key."""
        found = {}
        async with self._client() as client:
            pages = client.get_paginator("list_objects_v2")
            async for page in pages.paginate(Bucket=bucket, Prefix=prefix):
                found.update({each["Key"]: each["Size"] for each in page.get("Contents", ())})
        return found

    async def delete(self, bucket: str, key: str) -> None:
        async with self._client() as client:
            await client.delete_object(Bucket=bucket, Key=key)

    async def user(self, bucket: str, *actions: str) -> dict[str, str]:
        """Make a user who may do these actions with the bucket; return the user's variables."""
        name, secret = f"user-{uuid.uuid4().hex[:8]}", uuid.uuid4().hex
        command = [str(self.program), "admin", "--access", "key", "--secret", _SECRET]
        command += ["--endpoint-url", self.url, "create-user"]
        command += ["--access", name, "--secret", secret, "--role", "user"]
        await asyncio.to_thread(subprocess.run, command, check=True, capture_output=True)
        await self.allow(bucket, name, *actions)
        return self.environment_of(name, secret)

    async def allow(self, bucket: str, name: str, *actions: str) -> None:
        """Let a user do these actions with the bucket, and nobody anything else."""
        policy = {
            "Version": "2012-10-17",
            "Statement": [
                {
                    "Effect": "Allow",
                    "Principal": {"AWS": [name]},
                    "Action": [f"s3:{action}"],
                    "Resource": [f"arn:aws:s3:::{bucket}{'' if 'Bucket' in action else '/*'}"],
                }
                for action in actions
            ],
        }
        async with self._client() as client:
            await client.put_bucket_policy(Bucket=bucket, Policy=orjson.dumps(policy).decode())

    def _client(self):  # type: ignore[no-untyped-def]
        return get_session().create_client(
            "s3",
            endpoint_url=self.url,
            aws_access_key_id="key",
            aws_secret_access_key=_SECRET,
            region_name="us-east-1",
        )
