"""Two `up` start within a second, with ports side by side; then some that cannot start.

Each has a port that the other would like for its encoder's /metrics. Both come up. One more on the
data directory of another, on its port, or on that of its /metrics, gets one line and exit code 2,
and harms nobody.
"""

import time
from pathlib import Path

from tests.kits.roles import Role, answering, free_port, said
from tests.soak.operations import Ground, Outcome
from tests.soak.operations_kit import TEXTS, Watched
from tidelens.client import Client
from tidelens.runtime.run_file import Runtime


async def run(ground: Ground) -> Outcome:
    ports = [port := free_port(), port - 1]
    began = time.monotonic()
    first, second = [
        await _up(ground, "up", "--port", str(ports[n]), "--data", str(_data(ground, n)))
        for n in (0, 1)
    ]
    reported, metrics_ports, lost = [], [], 0
    async with (
        Client(f"http://127.0.0.1:{ports[0]}") as one,
        Client(f"http://127.0.0.1:{ports[1]}") as other,
    ):
        watched = []
        for n, (client, up) in enumerate([(one, first), (other, second)]):
            await answering(client, up)
            watched.append(Watched(up, client, _data(ground, n)))
            await watched[n].publish("0", TEXTS[n])
            runtime = Runtime.read(_data(ground, n))
            assert runtime is not None
            metrics_ports.append(runtime.metrics_port)
            reported.append(f"run.json: API {runtime.url}, /metrics on {runtime.metrics_port}")
        healed_s = time.monotonic() - began
        before = [await one_of.parts() for one_of in watched]
        for arguments in (
            ["--port", str(free_port()), "--data", str(_data(ground, 0))],
            ["--port", str(ports[0]), "--data", str(_data(ground, 2))],
            ["--port", str(metrics_ports[1]), "--data", str(_data(ground, 2))],
        ):
            code, out, err = await said("up", *arguments)
            assert (code, out, err.count("\n")) == (2, "", 1), err
            reported.append(f"exit code {code}: {err.strip()}")
        for n, one_of in enumerate(watched):
            assert await one_of.parts() == before[n], "another up did harm"
            answer = await one_of.client.search({"text": TEXTS[n], "target": "captions", "k": 1})
            lost += len(answer["hits"]) != 1
            assert await one_of.up.stop() == 0
    return Outcome(reported, healed_s, lost)


async def _up(ground: Ground, *arguments: str) -> Role:
    # The default, which is the next port after the API's.
    return await ground.role(*arguments, TIDELENS_ENCODE_METRICS_PORT="")


def _data(ground: Ground, n: int) -> Path:
    return ground.folder / f"data-{n}"
