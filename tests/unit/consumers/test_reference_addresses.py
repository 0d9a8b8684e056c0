"""No spelling of an address that is not public gets through."""

from ipaddress import ip_address

import pytest

from consumers.references import ReferenceLimits, References
from consumers.references.addresses import literal, refusal
from contracts.errors import RejectedRecord

pytestmark = pytest.mark.anyio

LOOPBACK = [
    "127.0.0.1",
    "127.1",
    "2130706433",
    "0x7f.1",
    "0x7f000001",
    "0177.0.0.1",
    "127。0。0。1",
    "１２７.0.0.1",
    "①②⑦.⓪.⓪.①",
    "127.0.\n0.1",
    "١٢٧.0.0.1",
    "127.0.0.1%00.public.example",
    "LOCALHOST",
    "[::1]",
    "[::1%25lo]",
    "[::ffff:127.0.0.1]",
    "[::ffff:7f00:1]",
    "[0:0:0:0:0:ffff:7f00:1]",
    "[64:ff9b::7f00:1]",
    "[2002:7f00:1::]",
    "[2001:0:4136:e378:8000:63bf:80ff:fffe]",
    "localhost",
    "localhost.",
]
OTHERS = [
    "169.254.169.254",
    "[fd00:ec2::254]",
    "[::ffff:169.254.169.254]",
    "168.63.129.16",
    "192.0.0.192",
    "[64:ff9b::c000:c0]",
    "metadata.google.internal",
    "METADATA.google.internal.",
    "100.64.0.1",
    "100.100.100.200",
    "10.0.0.1",
    "172.16.0.1",
    "192.168.1.1",
    "0.0.0.0",
    "0",
    "224.0.0.1",
    "240.0.0.1",
    "255.255.255.255",
    "192.0.2.1",
    "192.88.99.1",
    "198.18.0.1",
    "[::]",
    "[fe80::1%25eth0]",
    "[fe80::1]",
    "[fc00::1]",
    "[fec0::1]",
    "[ff02::1]",
    "[::127.0.0.1]",
    "[64:ff9b:1::a00:1]",
    "[::ffff:0:7f00:1]",
    "[3fff::1]",
    "[5f00::1]",
]


# Names that come to the resolver, since neither Tidelens nor aiohttp reads an address in them.
NAMES = {
    "localhost": "127.0.0.1",
    "metadata.google.internal": "169.254.169.254",
    "xn--9hbcp.0.0.1": "127.0.0.1",
    "127.0.0.1%00.public.example": "127.0.0.1",
}


# What is refused by aiohttp, when it is to be asked for.
ODD = {"https://127.0.0.1./", "https://134744072/"}


async def code_of(ref: str) -> str:
    """Return the code of the rejection of a reference that is read.

    A picture that is known has the same code, unless its address is hidden behind a name.
    """
    asked = []

    async def private_only(host: str, port: int, family: int) -> list[tuple[int, str]]:
        assert host.rstrip(".") in NAMES, f"{host} came to the resolver"
        asked.append(host)
        return [(2, NAMES[host.rstrip(".")])]

    limits = ReferenceLimits(schemes=frozenset({"https"}), bytes_max=100)
    async with References(limits, lookup=private_only) as references:
        with pytest.raises(RejectedRecord) as caught:
            async with references.read(ref, None):
                pass
        assert caught.value.field == "image.ref"
        looked_up = len(asked)
        try:
            await references.require_allowed(ref)
        except RejectedRecord as refusal:
            assert refusal.members() == caught.value.members()
        else:
            assert looked_up or ref in ODD
        assert len(asked) == looked_up
    return caught.value.code


@pytest.mark.parametrize("host", LOOPBACK + OTHERS)
async def test_what_is_not_public_is_refused(host: str) -> None:
    assert await code_of(f"https://{host}/a.png") == "reference_forbidden"


@pytest.mark.parametrize(
    ("ref", "code"),
    [
        ("https://public.example@127.0.0.1/", "reference_forbidden"),
        ("https://127.0.0.1@public.example/", "reference_forbidden"),
        ("https://user:password@public.example/", "reference_forbidden"),
        ("https://:@public.example/", "reference_forbidden"),
        ("https://public.example;@127.0.0.1/", "reference_forbidden"),
        ("https://127.0.0.1%2f@public.example/", "reference_forbidden"),
        ("https://127.0.0.1#@public.example/", "reference_forbidden"),
        ("https://127.0.0.1?@public.example/", "reference_forbidden"),
        ("https://127.0.0.1./", "reference_invalid"),
        ("https://public.example:8443/", "reference_forbidden"),
        ("https://public.example:0/", "reference_forbidden"),
        ("https://public.example\\@127.0.0.1/", "reference_invalid"),
        ("https://public.example:99999/", "reference_invalid"),
        ("https:///a.png", "reference_invalid"),
        ("https:a.png", "reference_invalid"),
        ("https:/127.0.0.1/", "reference_invalid"),
        ("https:\\\\127.0.0.1/", "reference_invalid"),
        ("https://127.0.0.1:443:443/", "reference_invalid"),
        ("https://[::1/", "reference_invalid"),
        ("https://134744072/", "reference_invalid"),
        ("http://public.example/", "not_enabled"),
        ("file:///etc/passwd", "not_enabled"),
        ("gopher://public.example/", "not_enabled"),
        (" https://public.example/", "not_enabled"),
        ("", "not_enabled"),
    ],
)
async def test_other_tricks_are_refused(ref: str, code: str) -> None:
    assert await code_of(ref) == code


@pytest.mark.parametrize(
    "address",
    [
        "8.8.8.8",
        "1.1.1.1",
        "2606:4700::1111",
        "::ffff:8.8.8.8",
        "64:ff9b::808:808",
        "2002:808:808::",
        "192.0.1.1",
    ],
)
def test_public_addresses_are_not_refused(address: str) -> None:
    assert refusal(ip_address(address)) is None


def test_why_is_told() -> None:
    for address, why in [
        ("::ffff:10.0.0.1", "private"),
        ("2002:7f00:1::", "loopback"),
        ("169.254.169.254", "metadata"),
        ("100.64.0.1", "public"),
    ]:
        assert why in (refusal(ip_address(address)) or ""), address


def test_names_are_no_addresses() -> None:
    assert literal("example.org") is None
    assert literal("0x7f.1") == ip_address("127.0.0.1")
