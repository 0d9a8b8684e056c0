"""One of two index nodes is stopped, killed, retired and started again; then nobody encodes.

A node that does not run is `gone` and adds nothing to `behind`. A command deletes its group, and is
refused while the node runs. A missing encoder is reported, and what was published meanwhile is
there once it is back.
"""

from tests.kits.roles import answering, free_port, said
from tests.soak.lag_readings import captions_of, lag_until, members_of, metric, published, read_lag
from tests.soak.operations import Ground, Outcome
from tidelens.client import Client

_ITEMS = 100
_ENCODERS = "tidelens.encode.hash-v1"
_RETIRED = "tidelens.index.hash-v1.0.b"


async def run(ground: Ground) -> Outcome:
    address = (await ground.broker()).bootstrap
    code, _, error = await said("topics", "create", "--brokers", address)
    assert code == 0, error
    port, other = free_port(), free_port()
    second = {"TIDELENS_REPLICA": "b", "TIDELENS_DATA": str(ground.folder / "second")}
    node = ("--brokers", address, "--port")
    encoder = await ground.role("encode", "--brokers", address)
    stays = await ground.role("index", *node, str(port))
    reported = []
    async with (
        Client(f"http://127.0.0.1:{port}") as client,
        Client(f"http://127.0.0.1:{other}") as of_second,
    ):
        await answering(client, stays)
        for at, how in enumerate(("stop", "kill")):
            replica = await ground.role("index", *node, str(other), **second)
            await answering(of_second, replica)
            await published(client, at * _ITEMS, _ITEMS)
            await lag_until(address, lambda seen: members_of(seen, _RETIRED) == {1})
            code, _, error = await said("lag", "--brokers", address, "--forget", _RETIRED)
            assert (code, error.count("\n")) == (2, 1), error
            await (replica.stop() if how == "stop" else replica.kill())
            answer, seconds = await lag_until(
                address, lambda seen: members_of(seen, _RETIRED) == {0}
            )
            reported.append(f"lag: gone {seconds:.1f} s after the {how}")
        reported.append(f"exit code 2: {error.strip()}")
        await published(client, 2 * _ITEMS, _ITEMS)
        answer = await read_lag(address)
        waits = [r["records"] for r in answer["partitions"] if r["gone"]]
        assert sum(waits) > 0, "the retired group is not behind"
        assert answer["behind_s"] is not None and answer["behind_s"] < 5
        assert await metric(port, "tidelens_lag_records", group=_RETIRED) is None
        assert await metric(port, "tidelens_group_members", group=_RETIRED) == 0
        reported.append(f"lag: behind {answer['behind_s']} s, {sum(waits)} records of the gone one")
        code, out, error = await said("lag", "--brokers", address, "--forget", _RETIRED)
        assert code == 0, error
        assert not members_of(await read_lag(address), _RETIRED)
        reported.append(f"lag --forget: {out.splitlines()}")
        again = await ground.role("index", *node, str(other), **second)
        await answering(of_second, again)
        await lag_until(address, lambda seen: members_of(seen, _RETIRED) == {1})

        await encoder.stop()
        await published(client, 3 * _ITEMS, _ITEMS, waited=False)
        answer, _ = await lag_until(address, lambda answer: (answer["behind_s"] or 0) > 2)
        assert members_of(answer, _ENCODERS) == {0}
        assert await metric(port, "tidelens_group_members", role="encode") == 0
        text = (await said("lag", "--brokers", address))[1]
        reported += [f"lag: {line}" for line in text.splitlines() if "nobody" in line]
        doctor = (await said("doctor", "--brokers", address))[1]
        reported += [f"doctor: {line}" for line in doctor.splitlines() if "nobody" in line]
        assert "nobody encodes" in text and "nobody encodes" in doctor
        await ground.role("encode", "--brokers", address)
        _, healed_s = await lag_until(address, lambda answer: answer["behind_s"] == 0)
        found = min(await captions_of(client), await captions_of(of_second))
    return Outcome(reported, healed_s, 4 * _ITEMS - found)
