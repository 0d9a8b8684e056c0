"""Ports of Kafka: held from before its first start until it is stopped."""

import socket
from pathlib import Path

import pytest

from contracts.errors import DataDirNotWritable, PortInUse
from streams.devbroker.ports import BrokerPorts


def numbers(ports: BrokerPorts) -> set[int]:
    return {ports.broker, ports.controller, ports.sasl}


def test_nobody_gets_one_that_is_held_but_who_says_that_it_may_be_reused(tmp_path: Path) -> None:
    ports = BrokerPorts.reserve(tmp_path)
    assert len(numbers(ports)) == 3
    for port in numbers(ports):
        with pytest.raises(OSError), socket.socket() as other:
            other.bind(("127.0.0.1", port))
        # Bind as Java does.
        with socket.create_server(("127.0.0.1", port)):
            pass
        with pytest.raises(PortInUse, match=f"port {port} for Kafka"):
            BrokerPorts.reserve(tmp_path, port)
    ports.close()
    again = BrokerPorts.reserve(tmp_path, ports.broker)
    assert again.broker == ports.broker
    again.close()


def test_the_port_of_the_last_start_is_taken_unless_somebody_holds_it(tmp_path: Path) -> None:
    first, copy = tmp_path / "a", tmp_path / "copy"
    for data_dir in (first, copy):
        (data_dir / "kafka").mkdir(parents=True)
    ports = BrokerPorts.reserve(first)
    ports.remember(first)
    ports.remember(copy)
    # Two `up` within a second, the second on a copy of the first one's data.
    others = BrokerPorts.reserve(copy)
    assert not numbers(ports) & numbers(others)
    others.close()
    ports.close()
    again = BrokerPorts.reserve(first)
    assert again.broker == ports.broker
    again.close()


def test_a_torn_file_is_no_reason_not_to_start(tmp_path: Path) -> None:
    (tmp_path / "kafka").mkdir()
    (tmp_path / "kafka" / "port").write_text("")
    ports = BrokerPorts.reserve(tmp_path)
    assert ports.broker > 0
    ports.close()


def test_a_file_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    (tmp_path / "kafka").write_text("")
    with pytest.raises(DataDirNotWritable, match="data directory"):
        BrokerPorts.reserve(tmp_path)
