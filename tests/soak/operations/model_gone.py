"""The folder of the model is moved away and both processes that load it are killed.

Starting them again cannot heal that: the node serves on, /readyz names the reason, texts that were
asked before are answered and others get 503 with the reason. Once the folder is back, all heals.
"""

import asyncio
import time

from contracts.errors import TidelensError
from tests.kits.checkpoints import make
from tests.kits.roles import answering, free_port
from tests.soak.operations import Ground, Outcome
from tests.soak.operations_kit import ENDED, TEXTS, Watched, searching
from tidelens.client import Client

_DOWN_S = 30.0


async def run(ground: Ground) -> Outcome:
    port, data = free_port(), ground.folder / "data"
    model, away = ground.folder / "model", ground.folder / "away"
    await asyncio.to_thread(make, "chinese_clip", model)
    up = await ground.role(
        "up",
        *("--port", str(port), "--model", str(model)),
        TIDELENS_PRECISION="float32",
        TIDELENS_RESTART_PAUSE_MAX_S="5",
    )
    async with Client(f"http://127.0.0.1:{port}") as client:
        await answering(client, up)
        watched = Watched(up, client, data)
        for n, text in enumerate(TEXTS):
            await watched.publish(str(n), text)
            await client.search({"text": text, "target": "captions", "k": 1})
        model.rename(away)
        async with searching(client) as took:
            for role in ("encode", "query"):
                watched.process(role).kill()
            reasons = {
                role: (await watched.until(role, lambda part: "model" in (part["reason"] or "")))
                for role in ("encode", "query")
            }
            refused = "nothing"
            try:
                await client.search({"text": "another text", "target": "captions", "k": 1})
            except TidelensError as error:
                refused = str(error)
            await asyncio.sleep(_DOWN_S)
            away.rename(model)
            began = time.monotonic()
            for role in ("encode", "query"):
                await watched.until(role, lambda part: part["running"])
            healed_s = time.monotonic() - began
        await watched.publish("last", "the last text")
        answer = await client.search({"text": "the last text", "target": "captions", "k": 4})
        lost = 4 - len(answer["hits"])
        lines = len(watched.lines(ENDED))
        assert await up.stop() == 0
    reported = [f"readyz: {role}: {part['reason']}" for role, part in reasons.items()]
    reported += [
        f"search: {refused}",
        f"log: {lines} lines of two processes in {_DOWN_S:.0f} s",
        f"{len(took)} searches meanwhile, the slowest {max(took) * 1000:.0f} ms",
    ]
    return Outcome(reported, healed_s, lost)
