"""Where a network grant leads: a host name, a wildcard, a block of addresses, or any public address.

Special addresses are those of the IANA IPv4 and IPv6 Special-Purpose Address Registries (RFC 6890 and its successors),
written out here because `ipaddress.is_global` has changed its mind between Python versions, plus multicast, the forms
of IPv6 that carry an IPv4 address (mapped, 6to4, NAT64, Teredo), and one metadata service at a public address.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from functools import cache
from typing import Final

from remit.errors import PolicyError
from remit.model.spelling import shown

__all__ = ["PUBLIC", "Block", "Name", "Public", "Target", "is_public", "parse_target"]

_SPECIAL_V4: Final = (
    "0.0.0.0/8",  # this host on this network, RFC 791
    "10.0.0.0/8",  # private, RFC 1918
    "100.64.0.0/10",  # shared address space, RFC 6598; metadata services too
    "127.0.0.0/8",  # loopback, RFC 1122
    "168.63.129.16/32",  # a cloud's metadata and key service, at a public address
    "169.254.0.0/16",  # link-local, RFC 3927; metadata services
    "172.16.0.0/12",  # private, RFC 1918
    "192.0.0.0/24",  # IETF protocol assignments, RFC 6890; metadata services too
    "192.0.2.0/24",  # documentation, RFC 5737
    "192.88.99.0/24",  # 6to4 relays, RFC 7526
    "192.168.0.0/16",  # private, RFC 1918
    "198.18.0.0/15",  # benchmarking, RFC 2544
    "198.51.100.0/24",  # documentation, RFC 5737
    "203.0.113.0/24",  # documentation, RFC 5737
    "224.0.0.0/3",  # multicast, RFC 5771, and reserved, RFC 1112
)
_GLOBAL_V6: Final = "2000::/3"  # global unicast as assigned so far, RFC 4291; all else is special
_SPECIAL_V6: Final = (
    "2001::/23",  # IETF protocol assignments, Teredo among them, RFC 2928
    "2001:db8::/32",  # documentation, RFC 3849
    "2002::/16",  # 6to4, carries any IPv4 address, RFC 3056
    "3fff::/20",  # documentation, RFC 9637
)
_MAPPED: Final = ipaddress.IPv6Network("::ffff:0:0/96")

# Never in the public tree of names: RFC 6761, RFC 6762 and its appendix G, RFC 7686, ICANN's `internal`. `arpa` holds
# `home.arpa` (RFC 8375) and nothing that an agent would connect to.
_SPECIAL_NAMES: Final = frozenset(
    {
        *("arpa", "corp", "home", "internal", "intranet", "invalid", "lan", "local", "localdomain"),
        *("localhost", "onion", "private", "test"),
    }
)
_LABEL: Final = re.compile(r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?", re.ASCII)
_NUMBER: Final = re.compile(r"[0-9]+|0x[0-9a-f]*", re.ASCII)


@dataclass(frozen=True, slots=True)
class Public:
    """Any public address, and any name that is not of a private tree."""

    def __str__(self) -> str:
        return "*"


PUBLIC: Final = Public()


@dataclass(frozen=True, slots=True)
class Name:
    """A host name in ASCII lower case without the last dot; `wildcard`: all the names beneath it, not itself."""

    name: str
    wildcard: bool = False

    @property
    def public(self) -> bool:
        """Whether it, or all beneath it, may stand in the public tree of names."""
        return (self.wildcard or "." in self.name) and self.name.rpartition(".")[2] not in _SPECIAL_NAMES

    def covers(self, other: Name) -> bool:
        """Whether every name of `other` is one of these."""
        if not self.wildcard:
            return self == other
        return other.name.endswith("." + self.name) or self == other

    def __str__(self) -> str:
        return f"*.{self.name}" if self.wildcard else self.name


@dataclass(frozen=True, slots=True)
class Block:
    """A block of addresses: `version` 4 or 6, `first` address as an integer, `prefix` length in bits."""

    version: int
    first: int
    prefix: int

    @classmethod
    def of(cls, network: ipaddress.IPv4Network | ipaddress.IPv6Network) -> Block:
        """The block of `network`; IPv4 addresses in IPv6's mapped form become IPv4."""
        first, prefix = int(network.network_address), network.prefixlen
        if isinstance(network, ipaddress.IPv6Network) and network.subnet_of(_MAPPED):
            return cls(4, first & 0xFFFF_FFFF, prefix - 96)
        return cls(network.version, first, prefix)

    @property
    def last(self) -> int:
        """The last address, as an integer."""
        return self.first | ((1 << (self._bits - self.prefix)) - 1)

    @property
    def single(self) -> bool:
        """Whether it is one address."""
        return self.prefix == self._bits

    @property
    def _bits(self) -> int:
        return 32 if self.version == 4 else 128

    def covers(self, other: Block) -> bool:
        """Whether every address of `other` is one of these."""
        return self.version == other.version and self.prefix <= other.prefix and self.first <= other.first <= self.last

    def overlaps(self, other: Block) -> bool:
        """Whether they share an address; blocks nest or are apart."""
        return self.covers(other) or other.covers(self)

    def halves(self) -> tuple[Block, Block]:
        """The two blocks that it is made of; not for a single address."""
        prefix = self.prefix + 1
        return (
            Block(self.version, self.first, prefix),
            Block(self.version, self.first + (1 << (self._bits - prefix)), prefix),
        )

    def public_parts(self) -> tuple[Block, ...]:
        """The fewest blocks that hold exactly the public addresses of this one, in order."""
        if self.version == 6 and not _global_v6().covers(self):
            return _global_v6().public_parts() if self.covers(_global_v6()) else ()
        special = [block for block in _special() if block.overlaps(self)]
        if not special:
            return (self,)
        if any(block.covers(self) for block in special):
            return ()
        return tuple(part for half in self.halves() for part in half.public_parts())

    @property
    def public(self) -> bool:
        """Whether all of it is public."""
        if self.version == 6 and not _global_v6().covers(self):
            return False
        return not any(block.overlaps(self) for block in _special())

    def __str__(self) -> str:
        address = ipaddress.IPv4Address(self.first) if self.version == 4 else ipaddress.IPv6Address(self.first)
        text = str(address) if self.single else f"{address}/{self.prefix}"
        return text if self.version == 4 else f"[{text}]"


Target = Public | Name | Block


@cache
def _special() -> tuple[Block, ...]:
    return tuple(Block.of(ipaddress.ip_network(text)) for text in (*_SPECIAL_V4, *_SPECIAL_V6))


@cache
def _global_v6() -> Block:
    return Block.of(ipaddress.ip_network(_GLOBAL_V6))


def is_public(address: str | ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    """Whether a bare `network` reaches this address.

    Raises:
        ValueError: `address` is not one.
    """
    return Block.of(ipaddress.ip_network(address)).public


def parse_target(host: str) -> Target:
    """A host as users write it, without its port: a name, `*.example.com`, an address, a CIDR block, or `*`.

    IPv6 comes without its brackets. Names become ASCII (IDNA 2003, the standard library's codec) and lower case.

    Raises:
        PolicyError: what can never match, or could be meant in two ways.
    """
    if host == "*":
        return PUBLIC
    if "%" in host:
        raise PolicyError(f"{shown(host)} names an interface", remedy="leave out `%` and what follows")
    if "/" in host or ":" in host:
        return _parse_block(host)
    try:
        return Block.of(ipaddress.ip_network(host))
    except ValueError:
        return _parse_name(host)


def _parse_block(text: str) -> Block:
    try:
        return Block.of(ipaddress.ip_network(text))
    except ValueError:
        pass
    try:
        meant = ipaddress.ip_network(text, strict=False)
    except ValueError:
        raise PolicyError(
            f"{shown(text)} is not a block of addresses", remedy="write it as `10.0.0.0/8` or `[2001:db8::/32]`"
        ) from None
    raise PolicyError(f"{shown(text)} has bits set beyond its prefix", remedy=f"did you mean `{meant}`?")


def _parse_name(host: str) -> Name:
    wildcard = host.startswith("*.")
    rest = host[2:] if wildcard else host
    if "*" in rest:
        raise PolicyError(
            f"{shown(host)} can never match: `*` stands for whole labels, and only in front",
            remedy="write `*.example.com`",
        )
    if not rest or len(rest) > 253 or not rest.isprintable():
        raise PolicyError(f"{shown(host)} is not a host name", remedy="write it as `api.example.com`")
    try:
        name = rest.encode("idna").decode("ascii").lower().removesuffix(".")
    except UnicodeError as error:
        raise PolicyError(
            f"{shown(host)} is not a host name: {error}", remedy="write its ASCII form, `xn--...`"
        ) from None
    labels = name.split(".")
    if not all(map(_LABEL.fullmatch, labels)) or len(name) > 253:
        raise PolicyError(
            f"{shown(host)} is not a host name", remedy="letters, digits, `-` and `.`, as `api.example.com`"
        )
    if _NUMBER.fullmatch(labels[-1]):
        # inet_aton(3) takes 127.1, 0x7f.1 and 2130706433 for addresses, and so do many resolvers
        raise PolicyError(f"{shown(host)} reads as an address in a short form", remedy="write all four numbers of it")
    return Name(name, wildcard)
