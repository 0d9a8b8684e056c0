"""`tidelens space` beside live traffic on a broker: create, killed and continued, then switch."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest
from prometheus_client.parser import text_string_to_metric_families

from contracts.errors import ConfigurationError, TidelensError
from contracts.events.content_event import content_record, delete_record
from contracts.events.control_record import ACTIVE, ActiveSpace, CandidateSpace, SpaceRef
from contracts.events.record import OutRecord
from contracts.settings import Settings
from contracts.testing.encoder import HashEncoder
from contracts.topics import Names, topic_specs
from streams.registry.control_topic import Control, ControlTopic
from streams.topics.admin import create_topics
from tests.faults.kill_rounds import all_encoded
from tests.integration.test_operating import Command
from tests.kits.kafka import Collection, caption, collection
from tests.kits.roles import Role, answering, free_port, of, role
from tidelens.client import Client, Update
from tidelens.migration import switch
from tidelens.migration.collection import OpenCollection

pytestmark = [pytest.mark.anyio, pytest.mark.broker, pytest.mark.timeout(180)]

OLD, NEW = HashEncoder(), HashEncoder(48, "hash-48")
CREATE = ("create", "hash:48")
OLD_OPTIONS = ("--space", "hash-48", "--model", "hash:48")


class System:
    """A node, its collection, and an operator beside them."""

    def __init__(self, kit: Collection, node: Role, client: Client, folder: Path, port: int):
        self.kit, self.node, self.client = kit, node, client
        self.folder = folder
        self.new = Names(kit.names.prefix, "hash-48")
        self.operator = Command(kit, folder / "data", port)
        self.url = f"http://127.0.0.1:{port}"

    async def publish(self, start: int, count: int) -> None:
        topic = self.kit.names.content("captions")
        await self.kit.log.publish(
            [content_record(topic, caption(f"c{n}", text(n))) for n in range(start, start + count)]
        )

    async def killed(self, fault: str, *what: str) -> Control:
        """Run `space` until it kills itself at that point; return what the control topic says."""
        arguments = [*(what or CREATE), *of(self.kit)]
        if not what:
            arguments += ["--url", self.url]
        small = {"TIDELENS_ENCODE_BATCH_CAPTIONS": "30"}
        command = await Role.start(self.folder, "space", *arguments, fault=fault, **small)
        assert await command.ended() == -9, command.log.read_text()[-3000:]
        return await ControlTopic(self.kit.log, self.kit.names.control).read()

    async def space(self) -> str:
        status = await self.client.get("/v1/status")
        return str(status["spaces"]["answering"])

    async def in_space(self, name: str) -> None:
        async with asyncio.timeout(30):
            while await self.space() != name:
                await asyncio.sleep(0.1)

    async def top(self, query: str, **rest: Any) -> list[str]:
        asked = {"text": query, "target": "captions", "k": 3, "timeout_s": 20, **rest}
        return [hit["id"] for hit in (await self.client.search(asked))["hits"]]


def text(number: int) -> str:
    words = ("red", "blue", "green", "cat", "dog", "horse", "snow", "sand", "sea")
    return f"{words[number % 3]} {words[3 + number // 3 % 3]} {words[6 + number // 9 % 3]} {number}"


@asynccontextmanager
async def system(bootstrap: str, folder: Path) -> AsyncIterator[System]:
    """Run `up` on a collection of the test's own."""
    port = free_port()
    async with collection(bootstrap, space=OLD.space.name, partitions=2) as kit:
        environment = {"TIDELENS_PARTITIONS": "2"}
        async with (
            role(folder, "up", *of(kit), "--port", str(port), **environment) as node,
            Client(f"http://127.0.0.1:{port}") as client,
        ):
            await answering(client, node)
            yield System(kit, node, client, folder, port)
            assert await node.stop() == 0


async def following(updates: AsyncIterator[Update]) -> Update:
    async with asyncio.timeout(90):
        return await anext(updates)


async def test_killed_in_the_middle_it_goes_on_and_then_is_switched_and_rolled_back(
    kafka, tmp_path: Path
) -> None:
    async with system(kafka.bootstrap, tmp_path) as one:
        await one.publish(0, 300)
        await all_encoded(one.kit)
        # 1. Killed before it encodes, inside and between transactions of its encoder, and gone on
        # with.
        begun = (await one.killed("space.begun")).candidate
        assert begun is not None and begun.encoded_at is None
        for fault in ("encode.sent:2", "encode.offsets_sent:2", "encode.committed:2"):
            await one.killed(fault)
        committed = await one.kit.log.committed(one.new.encoder_group)
        assert 0 < sum(committed.values()) < 300
        refused = await one.operator.run("space", "switch", rc=1)
        assert "space hash-48 is not encoded yet" in refused
        await one.publish(300, 20)
        encoded_as = (await one.killed("space.encoded")).candidate
        assert encoded_as is not None and encoded_as.encoded_at is not None
        assert (encoded_as.ref, encoded_as.started_at) == (begun.ref, begun.started_at)
        # And while it builds and writes the index.
        for fault in ("index.applied", "snapshot.blobs", "snapshot.manifest"):
            await one.killed(fault)
        await one.top(text(310))
        report = orjson.loads(await one.operator.run("space", *CREATE, "--json", asks=True))
        assert report["encoded"]["total"] == 320
        assert report["encoded"]["records"] < 320
        assert report["items"]["captions"] == {"old": 320, "new": 320}
        assert report["missing_count"] == 0
        assert report["queries"] == 200
        assert report["overlap"]["captions"] > 0.5
        assert report["recall"]["captions"] == 1.0
        compared = await one.operator.json("space", "compare", asks=True)
        same = ("space", "model", "old", "items", "missing_count", "queries", "recall")
        assert {name: compared[name] for name in same} == {name: report[name] for name in same}
        assert "encoded" not in compared
        [served, made] = (await one.operator.json("space", "status"))["spaces"]
        assert (served["space"], served["state"], served["has_encoder"]) == (
            "hash-v1",
            "active",
            True,
        )
        assert (made["space"], made["model"], made["state"]) == ("hash-48", "hash:48", "candidate")
        assert (made["since"], made["encoded"]) == (begun.started_at, True)
        # Each record of the content was encoded exactly once, in order, in spite of the kill.
        encoded = await one.kit.read_all(one.new.embeddings("captions"))
        assert sum(map(len, encoded.values())) == 320
        # 2. Switched under an open subscription, by a command that is killed between its records.
        updates = one.client.watch({"text": text(7), "target": "captions", "k": 3})
        first = await following(updates)
        assert first.hits[0]["id"] == "c7"
        assert await one.space() == "hash-v1"
        control = await one.killed("space.switched", "switch")
        assert control.active is not None and control.active.previous is not None
        spaces = control.active.current.space, control.active.previous.space
        assert spaces == ("hash-48", "hash-v1")
        assert control.candidate is not None
        refused = await one.operator.run("space", "switch", rc=1)
        assert refused == "tidelens: space hash-48 is active already\n"
        assert await ControlTopic(one.kit.log, one.kit.names.control).read() == Control(
            control.active, None
        )
        reset = await following(updates)
        assert (reset.event, reset.reason) == (
            "reset",
            "space_changed: from hash-v1 to hash-48",
        )
        fresh = await following(updates)
        assert fresh.event == "snapshot"
        await one.in_space("hash-48")
        exact = await one.top(text(7), exact=True)
        assert [hit["id"] for hit in fresh.hits] == exact
        assert (await one.client.get("/v1/status"))["space"]["dim"] == 48
        # 3. What is published now is pushed in the new space, and kept in the old one.
        token = (await one.client.publish([{"target": "captions", "id": "x", "text": text(7)}]))[0]
        delta = await following(updates)
        assert delta.event == "delta" and "x" in [hit["id"] for hit in delta.hits]
        assert "x" in await one.top(text(7), wait_for=token)
        # 4. Back.
        assert "active: hash-v1" in await one.operator.run("space", "rollback")
        shown = (await one.operator.run("space", "status")).splitlines()
        assert [line.partition(";")[0].partition(", since")[0] for line in shown] == [
            "hash-v1: active",
            "hash-48: kept for a rollback",
        ]
        assert (await following(updates)).event == "reset"
        back = await following(updates)
        assert back.event == "snapshot" and "x" in [hit["id"] for hit in back.hits]
        await updates.aclose()
        await one.in_space("hash-v1")
        assert (await one.client.get("/v1/status"))["spaces"]["kept"] == {
            "hash-v1": True,
            "hash-48": True,
        }


async def test_a_start_serves_the_active_space_until_the_rollback_is_given_up(
    kafka, tmp_path: Path
) -> None:
    async with system(kafka.bootstrap, tmp_path) as one:
        await one.publish(0, 30)
        await all_encoded(one.kit)
        printed = await one.operator.run("rebuild", *OLD_OPTIONS, "--switch", asks=True)
        assert "active: hash-48; hash-v1 is kept for a rollback" in printed
        await one.in_space("hash-48")
        assert await one.node.stop() == 0
        # The model given is the old one; the control topic knows better.
        port = free_port()
        arguments = [*of(one.kit), "--port", str(port)]
        async with (
            role(tmp_path, "up", *arguments, TIDELENS_PARTITIONS="2") as again,
            Client(f"http://127.0.0.1:{port}") as client,
        ):
            await answering(client, again)
            one.client = client
            assert await one.space() == "hash-48"
            await one.publish(30, 1)
            async with asyncio.timeout(30):
                while "c30" not in await one.top(text(30)):
                    await asyncio.sleep(0.1)
            assert await one.operator.run("space", "drop", "hash-v1") == "dropped hash-v1\n"
            async with asyncio.timeout(90):
                while (await client.get("/v1/status"))["spaces"]["kept"] != {"hash-48": True}:
                    await asyncio.sleep(0.1)
            refused = await one.operator.run("space", "rollback", rc=1)
            assert refused == "tidelens: nothing was switched, or its rollback was given up\n"
            assert await again.stop() == 0


async def test_what_is_missing_refuses_the_switch(kafka, tmp_path: Path) -> None:
    async with system(kafka.bootstrap, tmp_path) as one:
        await one.publish(0, 10)
        await one.kit.log.publish([delete_record(one.kit.names.content("captions"), "c9")])
        await all_encoded(one.kit)
        await one.operator.run("space", *CREATE, asks=True)
        # Its tombstone in the new space, as of a record that the new model could not take.
        await one.kit.log.publish([dead(one, "c3")])
        answer = await one.operator.run("space", "switch", rc=1)
        assert answer == (
            "tidelens: items missing in hash-48: 1 (1 encode_failed); publish them again, "
            "or switch with --missing-ok\n"
        )
        done = orjson.loads(await one.operator.run("space", "switch", "--missing-ok", "--json"))
        assert done["missing"] == [
            {"target": "captions", "id": "c3", "reason": "encode_failed: the model failed"}
        ]
        assert done["switched"] is True
        spaces = done["active"]["current"]["space"], done["active"]["previous"]["space"]
        assert spaces == ("hash-48", "hash-v1")
        assert done["items"]["captions"] == {"old": 9, "new": 8}
        await one.in_space("hash-48")


async def test_nodes_of_a_cluster_follow_each_by_itself(kafka, tmp_path: Path) -> None:
    """Each encoder and node is a role of its own; one node is killed while it should switch."""
    port, other = free_port(), free_port()
    async with collection(kafka.bootstrap, space=OLD.space.name, partitions=2) as kit:
        node = [*of(kit), "--port"]
        second = {"TIDELENS_REPLICA": "1", "TIDELENS_DATA": str(tmp_path / "second")}
        async with (
            role(tmp_path, "encode", *of(kit)),
            role(tmp_path, "index", *node, str(port)) as first,
            role(tmp_path, "index", *node, str(other), **second) as killed,
            Client(f"http://127.0.0.1:{port}") as client,
            Client(f"http://127.0.0.1:{other}") as other_client,
        ):
            await answering(client, first)
            await answering(other_client, killed)
            one = System(kit, first, client, tmp_path, port)
            await one.publish(0, 60)
            await all_encoded(kit)
            await one.operator.run("space", *CREATE, asks=True)
            async with (
                role(tmp_path, "encode", *of(kit), "--model", "hash:48"),
            ):
                await one.operator.run("space", "switch")
                await killed.kill()
                await one.in_space("hash-48")
                async with role(tmp_path, "index", *node, str(other), **second) as again:
                    await answering(other_client, again)
                    status = await other_client.get("/v1/status")
                    assert status["space"]["name"] == "hash-48"
                    await one.publish(60, 1)
                    for asked in (client, other_client):
                        one.client = asked
                        async with asyncio.timeout(30):
                            while "c60" not in await one.top(text(60)):
                                await asyncio.sleep(0.1)
                    digests = [(await c.get("/v1/status"))["digests"] for c in (client, asked)]
                    assert digests[0] == digests[1]
                # A node lists its own group before the first commit of it, seconds after a start.
                async with asyncio.timeout(30):
                    while True:
                        lag = await one.operator.json("lag")
                        over_http = await client.get("/v1/lag")
                        if rows_of(over_http) == rows_of(lag):
                            break
                        await asyncio.sleep(0.2)
                groups = {row["group"] for row in lag["partitions"] if row["role"] == "encode"}
                assert groups == {kit.names.encoder_group, one.new.encoder_group}
                assert (over_http["space"], lag["space"]) == ("hash-48", "hash-48")
                # What was counted before the switch is still reported, beside what is counted now.
                counted = await applied(port)
                assert counted[OLD.space.name] > 60
                assert counted["hash-48"] > 0


def rows_of(lag: Any) -> set[tuple[str, str, int]]:
    return {(row["group"], row["topic"], row["partition"]) for row in lag["partitions"]}


async def applied(port: int) -> Counter[str]:
    """Return the records that a node has applied, by space, from its /metrics."""
    async with httpx.AsyncClient(trust_env=False) as http:
        text = (await http.get(f"http://127.0.0.1:{port}/metrics")).text
    found: Counter[str] = Counter()
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if sample.name == "tidelens_applied_records_total":
                found[sample.labels["space"]] += int(sample.value)
    return found


async def test_without_an_encoder_of_its_own_a_space_is_not_switched_to(kafka) -> None:
    async with collection(kafka.bootstrap, space=OLD.space.name, partitions=1) as kit:
        collected = OpenCollection(Settings(topic_prefix=kit.names.prefix), kit.connection, kit.log)
        old = await switch.active_space(collected, "hash")
        with pytest.raises(ConfigurationError, match="no node serves space hash-7"):
            await switch.active_space(collected, "hash:7")
        new = SpaceRef.of(NEW.space, "hash:48")
        control = kit.names.control
        # A record of a space without topics would be ignored.
        specs = topic_specs(collected.names(new.space), partitions=1, content_bytes_max=100_000)
        await create_topics(kit.connection, specs, replication_factor=1, min_insync_replicas=1)
        await kit.log.publish([CandidateSpace(new, 1.0, 2.0).record(control)])
        with pytest.raises(TidelensError, match="no encoder of space hash-48 runs"):
            await switch.check_switch(collected, old, encoder_wait_s=0.2)
        # Cut off between its two records, a switch is not done twice: that would lose the way back.
        await kit.log.publish([ActiveSpace(new, old, 3.0).record(control)])
        with pytest.raises(TidelensError, match="space hash-48 is active already"):
            await switch.check_switch(collected, await switch.active_space(collected, "hash"))
        assert await collected.control() == Control(ActiveSpace(new, old, 3.0), None)
        # Some space is always active: a tombstone says nothing.
        await kit.log.publish([OutRecord(control, ACTIVE, None, partition=0)])
        assert await collected.control() == Control(ActiveSpace(new, old, 3.0), None)


async def test_what_cannot_work_is_one_line(kafka, tmp_path: Path) -> None:
    async with system(kafka.bootstrap, tmp_path) as one:
        for arguments, words in [
            (("--space", "hash-49", "--model", "hash:48"), "model 'hash:48' makes space hash-48"),
            (("--space", "hash-v1", "--model", "hash"), "hash-v1 is the active space"),
            (("--space", "hash-48"), "--space and --model go together"),
            (("--rollback", "--abandon"), "one at a time"),
        ]:
            assert words in await one.operator.run("rebuild", *arguments, rc=2)
        for option, command, words in [
            (
                "--switch",
                "switch",
                "no space is being made: make one with `tidelens space create MODEL`",
            ),
            ("--abandon", "drop SPACE", "no space is being made"),
            (
                "--rollback",
                "rollback",
                "nothing was switched, or its rollback was given up",
            ),
        ]:
            assert await one.operator.run("rebuild", option, rc=1) == (
                f"warning: `tidelens rebuild {option}` ends with the next release; "
                f"run `tidelens space {command}`\ntidelens: {words}\n"
            )
        for arguments, rc, words in [
            (("create", "hash"), 2, "model 'hash': hash-v1 is the active space"),
            (("compare",), 1, "no space is being made"),
            (("switch",), 1, "no space is being made"),
            (("rollback",), 1, "nothing was switched"),
            (("drop", "hash-48"), 2, "space hash-48 is neither being made nor kept"),
        ]:
            assert words in await one.operator.run("space", *arguments, rc=rc)


def dead(one: System, item: str) -> Any:
    from contracts.events.record import Source
    from contracts.partitioner import partitioner

    number = partitioner("murmur2")(item.encode(), 2)
    headers = [
        ("source", Source("x", number, 0).encode()),
        ("appended", b"0"),
        ("reason", b"encode_failed: the model failed"),
    ]
    return OutRecord(one.new.embeddings("captions"), item.encode(), None, headers, number)
