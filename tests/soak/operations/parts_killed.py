"""Every process of `up` is killed in turn, then the encoder again and again for 90 s.

Searches go on meanwhile, /readyz and a metric show which one is down, a crash loop writes one line
a minute, every process comes back by itself, and what was published is indexed. A stop in the
middle of a pause leaves nothing running.
"""

import asyncio
import contextlib
import time

import httpx
import psutil

from tests.kits.roles import answering, free_port
from tests.soak.operations import Ground, Outcome
from tests.soak.operations_kit import ENDED, TEXTS, Watched, gone, searching
from tidelens.client import Client

_LOOP_S = 90.0


async def run(ground: Ground) -> Outcome:
    port, data = free_port(), ground.folder / "data"
    up = await ground.role("up", "--port", str(port), TIDELENS_RESTART_PAUSE_MAX_S="8")
    reported: list[str] = []
    healed_s, lost = 0.0, 0
    async with Client(f"http://127.0.0.1:{port}") as client:
        await answering(client, up)
        watched = Watched(up, client, data)
        for n, text in enumerate(TEXTS):
            await watched.publish(str(n), text)
        for victim in ("encode", "broker", "guard", "query"):
            role = "broker" if victim == "guard" else victim
            before = (await watched.parts())[role]["restarts"]
            killed = watched.process(victim)
            java = watched.process("broker")
            async with searching(client) as took:
                began = time.monotonic()
                killed.kill()
                down = await watched.until(role, lambda part: not part["running"])
                back = await watched.until(role, lambda part: part["running"])
                seconds = time.monotonic() - began
            assert back["restarts"] > before
            if victim == "guard":
                await gone([java])
            await watched.publish(f"after {victim}", f"a text after {victim}")
            healed_s = max(healed_s, seconds)
            reported.append(
                f"readyz: {victim}: {down['reason']}; back after {seconds:.1f} s, "
                f"{len(took)} searches meanwhile, the slowest {max(took) * 1000:.0f} ms"
            )
        lines, starts = len(watched.lines(ENDED)), (await watched.parts())["encode"]["restarts"]
        async with searching(client) as took:
            deadline = time.monotonic() + _LOOP_S
            while time.monotonic() < deadline:
                with contextlib.suppress(psutil.Error, ValueError):
                    watched.process("encode").kill()
                await asyncio.sleep(0.1)
            starts = (await watched.parts())["encode"]["restarts"] - starts
        written = len(watched.lines(ENDED)) - lines
        assert starts > 10 and written <= _LOOP_S / 60 + 1
        reported.append(f"log: {starts} ends in {_LOOP_S:.0f} s were {written} lines")
        async with httpx.AsyncClient(trust_env=False) as http:
            text = (await http.get(f"http://127.0.0.1:{port}/metrics")).text
        reported += [
            f"metric {line}"
            for line in text.splitlines()
            if line.startswith("tidelens_part_restarts_total")
        ]
        await watched.publish("last", "the last text")
        for n, text_of in enumerate([*TEXTS, "the last text"]):
            answer = await client.search({"text": text_of, "target": "captions", "k": 1})
            lost += answer["hits"][0]["id"] != ("last" if n == len(TEXTS) else str(n))
        family = watched.family()
        watched.process("encode").kill()
        await watched.until("encode", lambda part: not part["running"])
        ended = len(watched.lines(ENDED))
        # Systemd stops a service by a signal to every process.
        for process in family:
            with contextlib.suppress(psutil.Error):
                process.terminate()
        assert await up.ended() == 0
        await gone(family)
        assert len(watched.lines(ENDED)) <= ended + 1
        reported.append("exit code 0 in the middle of a pause, and nothing left")
    return Outcome(reported, healed_s, lost)
