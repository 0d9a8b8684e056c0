"""A web server whose pictures each take a while to come."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aiohttp import web


class SlowHost:
    """A host that serves the stored pictures; its port is known while it listens."""

    def __init__(self) -> None:
        self.port = 0
        self._held: list[tuple[bytes, float]] = []

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[None]:
        app = web.Application()
        app.router.add_get("/{number}", self._answer)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        try:
            site = web.TCPSite(runner, "127.0.0.1", 0)
            await site.start()
            self.port = runner.addresses[0][1]
            yield
        finally:
            await runner.cleanup()

    def put(self, data: bytes, seconds: float) -> str:
        """Store a picture that takes `seconds` to arrive, and return its URL."""
        self._held.append((data, seconds))
        return f"http://127.0.0.1:{self.port}/{len(self._held) - 1}"

    @property
    def environment(self) -> dict[str, str]:
        """Settings of an encoder that may fetch from here."""
        return {
            "TIDELENS_REFERENCE_SCHEMES": '["http"]',
            "TIDELENS_REFERENCE_PORTS": f"[{self.port}]",
            "TIDELENS_REFERENCE_HOSTS_ALLOWED": '["127.0.0.1"]',
        }

    async def _answer(self, request: web.Request) -> web.Response:
        data, seconds = self._held[int(request.match_info["number"])]
        await asyncio.sleep(seconds)
        return web.Response(body=data, content_type="image/png")
