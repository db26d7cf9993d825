"""Hosts: what is public, blocks against `ipaddress`, and names in all the forms that have fooled others."""

from __future__ import annotations

import ipaddress
import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from remit.errors import PolicyError
from remit.model.host import PUBLIC, Block, Name, is_public, parse_target

SPECIAL = [
    "0.0.0.0",
    "0.1.2.3",
    "10.0.0.1",
    "10.255.255.255",
    "100.64.0.1",
    "100.100.100.200",
    "127.0.0.1",
    "127.255.255.254",
    "168.63.129.16",
    "169.254.169.254",
    "172.16.0.1",
    "172.31.255.255",
    "192.0.0.192",
    "192.0.2.1",
    "192.88.99.1",
    "192.168.1.1",
    "198.18.0.1",
    "198.51.100.7",
    "203.0.113.9",
    "224.0.0.1",
    "239.1.1.1",
    "240.0.0.1",
    "255.255.255.255",
    "::",
    "::1",
    "::ffff:127.0.0.1",
    "::ffff:10.0.0.1",
    "64:ff9b::7f00:1",
    "64:ff9b:1::1",
    "100::1",
    "2001::1",
    "2001:db8::1",
    "2002:7f00:1::1",
    "3fff::1",
    "5f00::1",
    "fc00::1",
    "fd00:ec2::254",
    "fe80::1",
    "fec0::1",
    "ff02::1",
    "::127.0.0.1",
]
ORDINARY = [
    "1.1.1.1",
    "8.8.8.8",
    "9.255.255.255",
    "11.0.0.0",
    "100.63.255.255",
    "100.128.0.0",
    "126.255.255.255",
    "128.0.0.0",
    "140.82.112.3",
    "168.63.129.15",
    "168.63.129.17",
    "172.15.255.255",
    "172.32.0.0",
    "192.167.255.255",
    "192.169.0.0",
    "223.255.255.255",
    "2606:4700::1111",
    "2a00:1450::200e",
    "2001:4860:4860::8888",
    "::ffff:8.8.8.8",
]


@pytest.mark.parametrize("address", SPECIAL)
def test_a_special_address_is_not_public(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize("address", ORDINARY)
def test_an_ordinary_address_is_public(address: str) -> None:
    assert is_public(address)


NETWORKS = st.one_of(
    st.builds(
        lambda first, prefix: ipaddress.ip_network((first, prefix), strict=False),
        st.one_of(st.integers(0, 2**32 - 1), st.sampled_from([int(ipaddress.IPv4Address(a)) for a in ORDINARY[:16]])),
        st.integers(0, 32),
    ),
    st.builds(
        lambda first, prefix: ipaddress.ip_network((first.to_bytes(16, "big"), prefix), strict=False),
        st.one_of(
            st.integers(0, 2**128 - 1), st.sampled_from([int(ipaddress.IPv6Address(a)) for a in SPECIAL if ":" in a])
        ),
        st.integers(97, 128) | st.integers(0, 40),
    ),
)


@given(NETWORKS, NETWORKS)
def test_blocks_nest_as_the_standard_library_says(
    one: ipaddress.IPv4Network | ipaddress.IPv6Network, other: ipaddress.IPv4Network | ipaddress.IPv6Network
) -> None:
    mapped = ipaddress.IPv6Network("::ffff:0:0/96")
    if any(isinstance(network, ipaddress.IPv6Network) and network.overlaps(mapped) for network in (one, other)):
        return  # those become IPv4, which the standard library does not do
    same = one.version == other.version
    assert Block.of(one).covers(Block.of(other)) == (same and other.subnet_of(one))  # type: ignore[arg-type]  # same version
    assert Block.of(one).overlaps(Block.of(other)) == (same and one.overlaps(other))  # type: ignore[arg-type]  # see above


@given(NETWORKS, st.integers(0, 2**128 - 1))
def test_public_parts_hold_exactly_the_public_addresses(
    network: ipaddress.IPv4Network | ipaddress.IPv6Network, at: int
) -> None:
    block = Block.of(network)
    parts = block.public_parts()
    address = Block(block.version, block.first + at % (block.last - block.first + 1), 32 if block.version == 4 else 128)
    assert any(part.covers(address) for part in parts) == address.public
    assert all(block.covers(part) and part.public for part in parts)
    assert block.public == (parts == (block,))
    for one, other in itertools.pairwise(parts):
        assert one.last < other.first


def test_public_parts_of_everything_are_few() -> None:
    assert 50 < len(Block(4, 0, 0).public_parts()) < 200
    assert Block(6, 0, 0).public_parts() != ()
    assert Block(6, 0, 16).public_parts() == ()


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("API.GitHub.com", "api.github.com"),
        ("api.github.com.", "api.github.com"),
        ("bücher.example", "xn--bcher-kva.example"),
        ("*.Bücher.example", "*.xn--bcher-kva.example"),
        ("my_service", "my_service"),
        ("*.com", "*.com"),
        ("example。com", "example.com"),
    ],
)
def test_a_name_is_ascii_and_lower_case(text: str, name: str) -> None:
    assert str(parse_target(text)) == name


@pytest.mark.parametrize(
    "text",
    [
        "",
        ".",
        "*.",
        "*.*",
        "a.*",
        "a*.example.com",
        "a..b",
        "-a.example",
        "a-.example",
        "a b",
        "a/b",
        "exa\u00admple.com",
        "exa\u202emple.com",
        "a\nb",
        "127.1",
        "2130706433",
        "0x7f000001",
        "0x7f.0.0.1",
        "0177.0.0.1",
        "１２７.0.0.1",  # noqa: RUF001 - full-width digits are the point
        "1.2.3.4.5",
        "256.1.1.1",
        "a" * 64 + ".example",
        "a." * 127 + "example",
        "fe80::1%eth0",
        "fe80::%eth0/64",
        "10.0.0.1/8",
        "10.0.0.0/33",
        "gggg::",
        "xn--" + "é" * 60,
    ],
)
def test_what_can_never_match_or_reads_in_two_ways_is_refused(text: str) -> None:
    with pytest.raises(PolicyError):
        parse_target(text)


def test_host_bits_are_told() -> None:
    with pytest.raises(PolicyError, match=r"did you mean `10\.0\.0\.0/8`"):
        parse_target("10.1.2.3/8")


def test_mapped_addresses_are_ipv4() -> None:
    assert parse_target("::ffff:10.0.0.1") == parse_target("10.0.0.1")
    assert str(parse_target("::ffff:10.0.0.0/104")) == "10.0.0.0/8"


@pytest.mark.parametrize(
    "name", ["localhost", "db", "x.localhost", "printer.local", "metadata.google.internal", "a.lan"]
)
def test_a_private_name_is_not_public(name: str) -> None:
    assert not Name(name).public


def test_a_wildcard_is_beneath_and_not_itself() -> None:
    wild = Name("example.com", wildcard=True)
    assert wild.covers(Name("a.b.example.com"))
    assert wild.covers(Name("b.example.com", wildcard=True))
    assert wild.covers(wild)
    assert not wild.covers(Name("example.com"))
    assert not wild.covers(Name("badexample.com"))
    assert not Name("example.com").covers(wild)
    assert wild.public
    assert not Name("internal", wildcard=True).public
    assert str(PUBLIC) == "*"
