"""Whom a host belongs to: what one stranger can have many of counts as one."""

import pytest

from consumers.references.registrant import registrant


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("example.com", "example.com"),
        ("a.example.com", "example.com"),
        ("A.B.Example.COM.", "example.com"),
        ("a.b.example.co.uk", "example.co.uk"),
        ("xn--bcher-kva.example.de", "example.de"),
        ("a.xn--85x722f.xn--55qx5d.cn", "xn--85x722f.xn--55qx5d.cn"),
        # Users of one service are as many strangers.
        ("one.github.io", "one.github.io"),
        ("a.one.github.io", "one.github.io"),
        ("bucket.s3.amazonaws.com", "bucket.s3.amazonaws.com"),
        ("github.io", "github.io"),
        ("com", "com"),
        ("localhost", "localhost"),
        ("a.pictures.test", "pictures.test"),
        ("a..b", "a..b"),
        ("", ""),
        # Addresses have no domain, however they are spelled.
        ("192.0.2.7", "192.0.2.7"),
        ("0xC0.0.2.7", "192.0.2.7"),
        ("3221225991", "192.0.2.7"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("64:ff9b::c000:207", "192.0.2.7"),
        ("2002:c000:207:1::1", "192.0.2.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::1", "2001:db8:1:2::/64"),
    ],
)
def test_whom_a_host_belongs_to(host: str, expected: str) -> None:
    assert registrant(host) == expected


def test_hosts_that_the_operator_named_stand_for_themselves() -> None:
    allowed = frozenset({"a.pictures.test", "10.0.0.1"})
    assert registrant("A.pictures.test.", allowed) == "a.pictures.test"
    assert registrant("b.pictures.test", allowed) == "pictures.test"
    assert registrant("10.0.0.1", allowed) == "10.0.0.1"
