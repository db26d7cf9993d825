"""GrantSet against an oracle that knows nothing of sets: each concrete request, asked of each text by itself."""

from __future__ import annotations

import fnmatch
import ipaddress
import itertools
import pickle
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from remit.errors import Denied, PolicyError
from remit.model.grants import GrantSet
from remit.model.host import is_public
from remit.model.permission import Grant, Permission, access

HOSTS = ("*", "*.example.com", "*.a.example.com", "a.example.com", "localhost", "10.0.0.0/8", "10.1.0.0/16", "10.1.2.3")
HOSTS += ("0.0.0.0/0", "8.8.8.8", "8.0.0.0/6", "[2001:4860::/32]", "[::/0]")
PORTS = ("", ":443", ":400-500", ":1-442")
PATHS = ("/", "/a", "/a/b", "/ab")
PROGRAMS = ("*", "git", "g*", "*t", "/usr/bin/git", "/usr/bin/*")
NAMES = ("*", "A", "AB", "A*", "*B", "A*B")
TEXTS = (
    *Permission,
    *(f"network:{host}{port}" for host in HOSTS for port in PORTS),
    *(f"file_system:{mode}:{path}" for mode in ("read", "write", "read,write") for path in PATHS),
    "file_system:tmp",
    *(f"basic_execution:{program}" for program in PROGRAMS),
    *(f"{kind}:{name}" for kind in ("env", "llm") for name in NAMES),
)
REQUESTS: list[tuple[str, dict[str, object]]] = [
    ("basic_execution", {}),
    ("function_registration", {}),
    *(
        ("network", {"host": host, "port": port})
        for host in (
            "example.com",
            "a.example.com",
            "b.a.example.com",
            "localhost",
            "x.localhost",
            "10.1.2.3",
            "10.2.0.1",
            "8.8.8.8",
            "9.9.9.9",
            "11.0.0.1",
            "127.0.0.1",
            "2001:4860::1",
            "::1",
            "::ffff:10.1.2.3",
        )
        for port in (1, 442, 443, 500, 501)
    ),
    *(
        ("file_system", {"path": path, "mode": mode})
        for path in ("/", "/a", "/a/b", "/a/b/c", "/ab", "/a/bc", "/z")
        for mode in ("read", "write")
    ),
    *(
        ("basic_execution", {"program": program})
        for program in ("git", "got", "sh", "/usr/bin/git", "/usr/bin/x/git", "/bin/sh")
    ),
    *(
        (kind, {key: name})
        for kind, key in (("env", "name"), ("llm", "model"))
        for name in ("A", "AB", "AXB", "B", "C")
    ),
]


def speaks_of(text: str, kind: str, request: dict[str, object], *, deny: bool) -> bool:
    """Whether one grant, as text, allows (or, as a deny, refuses) one request; written from the words of the design."""
    permission, _, scope = text.partition(":")
    if permission != kind:
        return False
    if permission == "network":
        return speaks_of_host(scope, str(request["host"]), int(str(request["port"])), deny=deny)
    if permission == "file_system":
        if not scope:
            return True
        modes, _, path = scope.partition(":")
        return request["mode"] in modes.split(",") and (str(request["path"]) + "/").startswith(path.rstrip("/") + "/")
    if permission == "basic_execution":
        if not request:
            return not (deny and scope)
        if not scope:
            return deny
        program = str(request["program"])
        if scope == "*":
            return True
        return scope.count("/") == program.count("/") and fnmatch.fnmatchcase(program, scope)
    return not scope or fnmatch.fnmatchcase(str(next(iter(request.values()))), scope)


def speaks_of_host(scope: str, host: str, port: int, *, deny: bool) -> bool:
    found = re.fullmatch(r"(\[.*\]|[^:]*)(?::(\d+)(?:-(\d+))?)?", scope)
    assert found is not None
    target = found[1].strip("[]") or "*"
    first = int(found[2] or 1)
    last = int(found[3] or found[2] or 65535)
    if not first <= port <= last:
        return False
    try:
        address = ipaddress.ip_address(host.removeprefix("::ffff:"))
    except ValueError:
        if target == "*":
            return deny or "localhost" not in host
        return host.endswith(target[1:]) if target.startswith("*") else host == target
    if target == "*":
        return deny or is_public(address)
    try:
        return address in ipaddress.ip_network(target)
    except ValueError:
        return False


def oracle(grants: list[str], deny: list[str], kind: str, request: dict[str, object]) -> bool:
    if any(speaks_of(text, kind, request, deny=True) for text in deny):
        return False
    return any(speaks_of(text, kind, request, deny=False) for text in grants)


def allowed(held: GrantSet) -> list[bool]:
    return [held.allows(access(kind, request)) for kind, request in REQUESTS]


few = st.lists(st.sampled_from(TEXTS), max_size=4)
one_kind = st.sampled_from(list(Permission)).flatmap(
    lambda kind: st.lists(st.sampled_from([text for text in TEXTS if text.partition(":")[0] == kind]), max_size=3)
)
lists = few | one_kind
sets = st.builds(lambda grants, deny: GrantSet.of(grants, deny=deny), lists, lists)


@given(lists, lists)
def test_what_is_allowed_is_what_the_oracle_allows(grants: list[str], deny: list[str]) -> None:
    held = GrantSet.of(grants, deny=deny)
    assert allowed(held) == [oracle(grants, deny, kind, request) for kind, request in REQUESTS]


@pytest.mark.parametrize("kind", list(Permission))
def test_each_pair_meets_where_both_allow(kind: str) -> None:
    texts = [text for text in TEXTS if text.partition(":")[0] == kind]
    mine = [(index, one) for index, one in enumerate(REQUESTS) if one[0] == kind]
    single = {text: allowed(GrantSet.of([text])) for text in texts}
    for one, other in itertools.combinations_with_replacement(texts, 2):
        both = allowed(GrantSet.of([one]).intersect(GrantSet.of([other])))
        for index, request in mine:
            assert both[index] == (single[one][index] and single[other][index]), (one, other, request)


@given(sets, sets)
def test_an_intersection_allows_what_both_allow(one: GrantSet, other: GrantSet) -> None:
    assert allowed(one.intersect(other)) == [a and b for a, b in zip(allowed(one), allowed(other), strict=True)]


@given(sets, sets, sets)
def test_intersection_is_commutative_associative_and_idempotent(a: GrantSet, b: GrantSet, c: GrantSet) -> None:
    assert a.intersect(b) == b.intersect(a)
    assert a.intersect(b).intersect(c) == a.intersect(b.intersect(c))
    assert a.intersect(a) == a
    assert hash(a.intersect(b)) == hash(b.intersect(a))


@given(sets, sets)
def test_an_intersection_is_a_lower_bound(one: GrantSet, other: GrantSet) -> None:
    both = one.intersect(other)
    assert one.covers_all(both)
    assert other.covers_all(both)
    assert all(grant in both for grant in both)


@given(sets, sets, sets)
def test_a_common_lower_bound_is_beneath_the_intersection(one: GrantSet, other: GrantSet, least: GrantSet) -> None:
    if one.covers_all(least) and other.covers_all(least):
        assert one.intersect(other).covers_all(least)


@given(lists, lists, st.sampled_from(TEXTS))
def test_more_grants_never_allow_less_and_more_denies_never_more(grants: list[str], deny: list[str], text: str) -> None:
    held = GrantSet.of(grants, deny=deny)
    more = GrantSet.of([*grants, text], deny=deny)
    less = held.without([text])
    assert all(a <= b for a, b in zip(allowed(held), allowed(more), strict=True))
    assert all(a <= b for a, b in zip(allowed(less), allowed(held), strict=True))
    assert more.covers_all(held)
    assert held.covers_all(less)


@given(sets, st.sampled_from(TEXTS))
def test_what_is_covered_is_allowed_in_every_request(held: GrantSet, text: str) -> None:
    if held.covers(Grant.parse(text)):
        mine = allowed(GrantSet.of([text]))
        assert all(b for a, b in zip(mine, allowed(held), strict=True) if a)


@given(lists, lists)
def test_the_text_reads_back(grants: list[str], deny: list[str]) -> None:
    held = GrantSet.of(grants, deny=deny)
    assert GrantSet.of(held.as_text(), deny=map(str, held.denied)) == held
    assert GrantSet.of(reversed(grants), deny=reversed(deny)) == held
    assert pickle.loads(pickle.dumps(held)) == held


@given(sets, lists)
def test_attenuating_gives_what_was_asked_or_names_what_exceeds(held: GrantSet, asked: list[str]) -> None:
    over = held.exceeding(asked)
    if over:
        with pytest.raises(Denied) as caught:
            held.attenuate(asked)
        assert all(f"`{grant}`" in str(caught.value) for grant in over)
    else:
        given_ = held.attenuate(asked)
        assert held.covers_all(given_)
        assert allowed(given_) == [a and b for a, b in zip(allowed(held), allowed(GrantSet.of(asked)), strict=True)]


def test_reading_and_writing_are_one_grant_to_a_reader() -> None:
    held = GrantSet.of(["file_system:write:/a", "file_system:read:/a", "file_system:read:/a/b"])
    assert held.as_text() == ["file_system:read,write:/a"]
    assert held.covers(Grant.parse("file_system:read,write:/a/b"))
    assert Grant.parse("file_system:read:/a") in held
    assert Grant.parse("file_system:read,write:/a") in held
    assert Grant.parse("file_system:read:/b") not in held


def test_a_deny_beneath_a_grant() -> None:
    held = GrantSet.of(["file_system:read:/data"], deny=["file_system:read,write:/data/secret"])
    assert held.explain(access("file_system", {"path": "/data/x", "mode": "read"})) == (
        True,
        "grant file_system:read:/data",
    )
    assert held.explain(access("file_system", {"path": "/data/secret/k", "mode": "read"})) == (
        False,
        "deny file_system:read:/data/secret",
    )
    assert held.explain(access("file_system", {"path": "/etc", "mode": "read"})) == (False, "")
    assert held.explain(access("env", {"name": "A"})) == (False, "")
    assert not held.covers(Grant.parse("file_system:read:/data"))
    assert held.covers(Grant.parse("file_system:read:/data/open"))
    assert "deny=['file_system:read:/data/secret']" in repr(held)


def test_denying_all_programs_leaves_running() -> None:
    held = GrantSet.of(["basic_execution:git"], deny=["basic_execution:*"])
    assert held.as_text() == ["basic_execution"]
    assert not GrantSet.of(["basic_execution:git"], deny=["basic_execution"])


def test_a_denied_address_stays_denied_behind_a_granted_name() -> None:
    held = GrantSet.of(["network:cdn.example.com:443"], deny=["network:8.8.0.0/16"])
    assert held.allows(access("network", {"host": "cdn.example.com", "port": 443}))
    assert str(held.refuses(access("network", {"host": "8.8.8.8", "port": 443}))) == "network:8.8.0.0/16"
    assert held.refuses(access("network", {"host": "9.9.9.9", "port": 443})) is None
    assert GrantSet.of(["network:cdn.example.com:443"], deny=["network:8.8.0.0/16:80"]).denied == ()


def test_a_set_is_frozen_and_shows_itself() -> None:
    held = GrantSet.of(["llm", "network", "env:A"])
    assert held.as_text() == ["network", "env:A", "llm"]
    assert len(held) == 3
    assert held.kinds() == {Permission.LLM, Permission.NETWORK, Permission.ENV}
    assert held.of_kind(Permission.ENV) == GrantSet.of(["env:A"])
    assert held.of_kind(Permission.FILE_SYSTEM) == GrantSet()
    assert not GrantSet()
    assert held != "network"
    assert repr(GrantSet.of(["llm"])) == "GrantSet(['llm'])"
    with pytest.raises(AttributeError):
        held.parts = ()
    with pytest.raises(AttributeError):
        del held.parts
    with pytest.raises(PolicyError):
        GrantSet.of(["netwrok"])
