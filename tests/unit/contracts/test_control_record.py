"""Every impossible control record is refused with the name of its fault."""

from typing import Any

import orjson
import pytest

from contracts.errors import RejectedRecord
from contracts.events.control_record import (
    ACTIVE,
    AHEAD_S_MAX,
    CANDIDATE,
    RECORD_BYTES_MAX,
    ActiveSpace,
    CandidateSpace,
    SpaceRef,
    no_candidate,
    read_record,
)
from contracts.events.record import OutRecord, Record
from contracts.testing.encoder import HashEncoder

NOW = 1_800_000_000.0
TOPIC = "tidelens.control"
OLD = SpaceRef.of(HashEncoder().space, "hash")
NEW = SpaceRef.of(HashEncoder(48, "hash-48").space, "hash:48")
GOOD: dict[str, Any] = {
    "space": "hash-v1",
    "model": "hash",
    "fingerprint": "a158abb89f5a7627",
    "previous": None,
    "at": NOW,
}
MADE = {name: GOOD[name] for name in ("space", "model", "fingerprint")} | {
    "started_at": NOW,
    "encoded_at": None,
}


def as_read(out: OutRecord, timestamp_ms: int = 0) -> Record:
    return Record(out.topic, 0, 7, timestamp_ms, out.key, out.value)


def record(value: bytes | None, key: bytes = ACTIVE, timestamp_ms: int = 0) -> Record:
    return Record(TOPIC, 0, 7, timestamp_ms, key, value)


def fault(read: Record) -> str:
    with pytest.raises(RejectedRecord) as refused:
        read_record(read, NOW)
    assert refused.value.message
    return refused.value.code


@pytest.mark.parametrize(
    "said",
    [
        ActiveSpace(NEW, OLD, NOW),
        ActiveSpace(NEW, None, 1.5),
        CandidateSpace(NEW, NOW),
        CandidateSpace(NEW, NOW, NOW + 1),
    ],
)
def test_what_is_written_is_read(said: ActiveSpace | CandidateSpace) -> None:
    assert read_record(as_read(said.record(TOPIC)), NOW) == said


def test_a_member_that_a_newer_release_added_is_passed_over() -> None:
    added = GOOD | {"version": 1, "added_later": {"a": 1}}
    assert read_record(record(orjson.dumps(added)), NOW) == ActiveSpace(OLD, None, NOW)


def test_a_candidate_that_is_given_up_is_read_as_none() -> None:
    assert read_record(as_read(no_candidate(TOPIC)), NOW) is None


def test_a_record_of_the_first_version_has_none_and_is_read() -> None:
    assert "version" not in GOOD
    assert read_record(record(orjson.dumps(GOOD)), NOW) == ActiveSpace(OLD, None, NOW)
    made = read_record(record(orjson.dumps(MADE), CANDIDATE), NOW)
    assert made == CandidateSpace(OLD, NOW)


@pytest.mark.parametrize(
    ("value", "code"),
    [
        (None, "no_value"),
        (b"", "not_json"),
        (b"\xff\xfe", "not_json"),
        (b"{" * 2_000, "not_json"),
        (b'{"at": NaN}', "not_json"),
        (b'{"at": 1e999}', "not_json"),
        (b"[]", "wrong_type"),
        (b'"x"', "wrong_type"),
        (b"null", "wrong_type"),
        (b"{}", "missing_field"),
        (b"{}".ljust(RECORD_BYTES_MAX), "too_large"),
    ],
)
def test_what_is_no_record_is_refused(value: bytes | None, code: str) -> None:
    assert fault(record(value)) == code


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"version": 2}, "unknown_version"),
        ({"version": "1"}, "unknown_version"),
        ({"version": True}, "unknown_version"),
        ({"version": None}, "unknown_version"),
        ({"space": 1}, "wrong_type"),
        ({"space": ""}, "impossible_value"),
        ({"space": "../x"}, "impossible_value"),
        ({"space": "UPPER"}, "impossible_value"),
        ({"space": "a\n"}, "impossible_value"),
        ({"space": "a" * 64}, "impossible_value"),
        ({"model": None}, "wrong_type"),
        ({"model": " "}, "impossible_value"),
        ({"model": "a\0b"}, "impossible_value"),
        ({"model": "a\nb"}, "impossible_value"),
        ({"model": "a" * 5_000}, "impossible_value"),
        ({"fingerprint": ["a"]}, "wrong_type"),
        ({"fingerprint": "A158ABB89F5A7627"}, "impossible_value"),
        ({"fingerprint": "a158"}, "impossible_value"),
        ({"at": "1800000000"}, "wrong_type"),
        ({"at": True}, "wrong_type"),
        ({"at": None}, "wrong_type"),
        ({"at": -1}, "impossible_value"),
        ({"at": NOW * 1_000}, "impossible_value"),
        ({"at": NOW + AHEAD_S_MAX + 1}, "impossible_value"),
        ({"previous": "hash-48"}, "wrong_type"),
        ({"previous": {}}, "missing_field"),
        ({"previous": {**GOOD}}, "impossible_value"),
        (
            {"previous": {"space": "hash-v1", "model": "x", "fingerprint": "0" * 16}},
            "impossible_value",
        ),
        ({"previous": {"space": "B", "model": "x", "fingerprint": "0" * 16}}, "impossible_value"),
    ],
)
def test_one_wrong_member_refuses_the_whole_record(change: dict[str, Any], code: str) -> None:
    assert fault(record(orjson.dumps(GOOD | change))) == code


@pytest.mark.parametrize("missing", GOOD)
def test_a_missing_member_is_named(missing: str) -> None:
    rest = {name: value for name, value in GOOD.items() if name != missing}
    with pytest.raises(RejectedRecord, match=f"{missing}: missing"):
        read_record(record(orjson.dumps(rest)), NOW)


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"started_at": -1}, "impossible_value"),
        ({"started_at": None}, "wrong_type"),
        ({"encoded_at": 1e18}, "impossible_value"),
    ],
)
def test_a_candidate_is_checked_too(change: dict[str, Any], code: str) -> None:
    assert fault(record(orjson.dumps(MADE | change), CANDIDATE)) == code


def test_an_unknown_key_is_named() -> None:
    assert fault(record(orjson.dumps(GOOD), b"active-space ")) == "unknown_key"
    assert fault(record(None, b"")) == "unknown_key"


def test_a_reader_whose_clock_is_behind_refuses_nothing_for_that() -> None:
    read = as_read(ActiveSpace(NEW, OLD, NOW).record(TOPIC), timestamp_ms=int(NOW * 1_000))
    assert read_record(read, 0.0) == ActiveSpace(NEW, OLD, NOW)
