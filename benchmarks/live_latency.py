"""Time until an applied change is on the sockets of those whom it concerns, at rising rates.

    python -m benchmarks.live_latency [--quick] [--json FILE]

A server process and a process of clients: 1,000 WebSockets with a standing query each, 100 changes
a second, each of which changes the lists of 100 of them; then other rates, to the highest that the
server keeps up with. The same of 5,000. Beside it, in the same run: a bare server on the same
library, which sends messages of the size of a single change to as many sockets.

Latency is from the moment before the change is applied to the moment the client has the message.
Changes that the server is late to apply count as late, not as latency.
"""

import multiprocessing
import resource
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from multiprocessing.connection import Connection
from typing import Any

import numpy as np

from benchmarks import live_clients, live_serving
from benchmarks.live_load import Load
from benchmarks.report import Goal, finish, parser

# Messages/s.
_SIZED = 500
_LIGHT = 10_000
# The number of sockets of the goal; for more of them only the saturation point is reported.
_GOAL_OF = 1_000
_SIZED_S = 3.0
_WARM_S = 1.0
_DRAIN_S = 1.0
_STEP = 1.25
_P99_MS_MAX = 250.0
# Fewer messages than changes times clients: some were overtaken before they were sent.
_DELIVERED_MIN = 0.98

Row = dict[str, Any]


class Running:
    """A server and its clients."""

    def __init__(self, load: Load, server: Connection, clients: Connection) -> None:
        self._load = load
        self._server = server
        self._clients = clients

    def phase(self, messages_per_s: float, seconds: float) -> Row:
        """Measure one rate."""
        load = self._load
        self._ask_clients()
        rate = messages_per_s / load.reach
        self._server.send((rate, seconds))
        driven: live_serving.Driven = self._server.recv()
        time.sleep(_DRAIN_S)
        seen = self._ask_clients()
        after_ns = driven.began_ns + int(_WARM_S * 1e9)
        warm = np.array(seen.stamps_ns) >= after_ns
        p50, p99, worst = np.percentile(
            np.array(seen.latencies_ns)[warm] / 1e6, [50, 99, 100]
        ).tolist()
        row = {
            "server": "tidelens" if load.bare_bytes is None else "bare",
            "sockets": load.connections,
            "asked_per_s": messages_per_s,
            "messages_per_s": seen.messages / driven.seconds,
            "delivered": seen.messages / (driven.changes * load.reach),
            "p50_ms": p50,
            "p99_ms": p99,
            "max_ms": worst,
            "late_p99_ms": float(np.percentile(driven.late_s, 99)) * 1e3,
            "server_cores": driven.cpu_s / driven.seconds,
            "cpu_us_per_message": driven.cpu_s / seen.messages * 1e6,
            "clients_cores": seen.cpu_s / driven.seconds,
            "bytes": seen.bytes / seen.messages,
        }
        print(row, flush=True)
        return row

    def _ask_clients(self) -> live_clients.Seen:
        self._clients.send(True)
        seen: live_clients.Seen = self._clients.recv()
        return seen


@contextmanager
def running(load: Load) -> Iterator[Running]:
    """Both processes, with every list sent once."""
    context = multiprocessing.get_context("spawn")
    server, server_end = context.Pipe()
    clients, clients_end = context.Pipe()
    serving = context.Process(target=live_serving.run, args=(server_end, load))
    serving.start()
    asking = context.Process(target=live_clients.run, args=(clients_end, server.recv(), load))
    asking.start()
    # With the ends open here, nobody would notice that one of them died.
    server_end.close()
    clients_end.close()
    try:
        clients.recv()
        yield Running(load, server, clients)
        clients.send(False)
        asking.join()
        server.send(None)
        serving.join()
    finally:
        for process in (asking, serving):
            process.kill()


def keeps_up(row: Row) -> bool:
    late = max(row["p99_ms"], row["late_p99_ms"])
    return bool(late <= _P99_MS_MAX and row["delivered"] >= _DELIVERED_MIN)


def saturated(at: Running, first_s: float, step_s: float) -> list[Row]:
    """Measure rising rates up to the first that is too much, or falling ones to one that is not."""
    rows = [at.phase(_LIGHT, first_s)]
    step = _STEP if keeps_up(rows[0]) else 1 / _STEP
    while keeps_up(rows[-1]) == (step > 1):
        rate = rows[-1]["asked_per_s"] * step
        row = at.phase(rate, step_s)
        # Once more: on a shared machine it may not have been the server.
        rows.append(row if keeps_up(row) else at.phase(rate, step_s))
    return rows


def highest(rows: list[Row]) -> float:
    return max(float(row["messages_per_s"]) for row in rows if keeps_up(row))


def compared(load: Load, first_s: float, step_s: float) -> tuple[list[Row], list[Row]]:
    """Return the rows of Tidelens and those of the bare server."""
    with running(load) as at:
        # Where nothing is overtaken, a message has one change.
        size = round(at.phase(_SIZED, _SIZED_S)["bytes"])
        ours = saturated(at, first_s, step_s)
    with running(replace(load, bare_bytes=size)) as at:
        bare = saturated(at, first_s, step_s)
    share = highest(ours) / highest(bare)
    print(f"{load.connections} sockets: {share:.2f} of the messages/s of the bare server")
    print(f"  at {_LIGHT}: p99 {ours[0]['p99_ms'] / bare[0]['p99_ms']:.1f} times its p99")
    return ours, bare


def main() -> None:
    arguments = parser("live_latency", __doc__ or "").parse_args()
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    quick = arguments.quick
    corpus = 20_000 if quick else 100_000
    first_s, step_s = (8, 3) if quick else (30, 10)
    table, goals = [], []
    for connections in (1_000,) if quick else (1_000, 5_000):
        ours, bare = compared(Load(connections, corpus), first_s, step_s)
        table += ours + bare
        if connections == _GOAL_OF:
            name = f"{connections} sockets, {_LIGHT} messages/s: p99, applied to on the socket, ms"
            goals.append(Goal(name, ours[0]["p99_ms"], 50, "lower"))
    finish("live_latency", table, goals, arguments.json)


if __name__ == "__main__":
    main()
