"""Grants: what is refused, canonical forms, and the order that everything else rests on."""

from __future__ import annotations

from pathlib import PurePosixPath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from remit.errors import PolicyError
from remit.model.host import PUBLIC
from remit.model.pattern import Pattern
from remit.model.permission import FileScope, Grant, NetworkScope, Permission, access

KINDS = tuple(Permission)
HOSTS = [
    "*",
    "*.example.com",
    "*.a.example.com",
    "example.com",
    "a.example.com",
    "b.a.example.com",
    "localhost",
    "*.internal",
    "10.0.0.0/8",
    "10.1.0.0/16",
    "10.1.2.3",
    "0.0.0.0/0",
    "8.8.8.8",
    "8.0.0.0/7",
    "[::1]",
    "[2001:4860::/32]",
    "[2001:4860::1]",
    "[::/0]",
    "127.0.0.1",
]
PORTS = ("", ":443", ":400-500", ":80", ":1-442", ":443-443")
PATHS = ("/", "/a", "/a/b", "/a/b/c", "/ab", "/b")
MODES = ("read", "write", "read,write")
PROGRAMS = ("*", "git", "g*", "*t", "/usr/bin/git", "/usr/bin/*", "/usr/*/git", "/usr/bin/g*&/usr/bin/*t", "/bin/sh")
NAMES = ("*", "A", "AB", "A*", "*B", "A*B", "A*&*B", "B*", "AB*")

TEXTS = [
    *KINDS,
    *(f"network:{host}{port}" for host in HOSTS for port in PORTS),
    *(f"file_system:{mode}:{path}" for mode in MODES for path in PATHS),
    "file_system:tmp",
    *(f"basic_execution:{program}" for program in PROGRAMS),
    *(f"{kind}:{name}" for kind in ("env", "llm") for name in NAMES),
]
GRANTS = sorted({Grant.parse(text) for text in TEXTS}, key=str)
grants = st.sampled_from(GRANTS)


def test_there_are_six_permissions() -> None:
    assert [str(kind) for kind in Permission] == [
        "network",
        "basic_execution",
        "file_system",
        "env",
        "llm",
        "function_registration",
    ]


@pytest.mark.parametrize("text", TEXTS)
def test_canonical_text_reads_back(text: str) -> None:
    grant = Grant.parse(text)
    assert Grant.parse(str(grant)) == grant
    assert hash(Grant.parse(str(grant))) == hash(grant)


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("network:*", "network"),
        ("network:API.github.com.:443-443", "network:api.github.com:443"),
        ("network:[2001:db8::]/32:80", "network:[2001:db8::/32]:80"),
        ("network:[2001:DB8:0:0::1]:1-65535", "network:[2001:db8::1]"),
        ("network:10.0.0.0/255.0.0.0", "network:10.0.0.0/8"),
        ("network:1.2.3.4/32", "network:1.2.3.4"),
        ("file_system:write,read:/a//b/./c/../d/", "file_system:read,write:/a/b/d"),
        ("file_system:read://a", "file_system:read:/a"),
        ("file_system:read:/..", "file_system:read:/"),
        ("file_system:read:/a:b", "file_system:read:/a:b"),
        ("llm:*", "llm"),
        ("llm:**", "llm"),
        ("env:A**B", "env:A*B"),
        ("env:*B&A*&*", "env:*B&A*"),
        ("env:A*&AB", "env:AB"),
        ("basic_execution:/usr/bin/../bin/git", "basic_execution:/usr/bin/git"),
    ],
)
def test_the_canonical_form(text: str, canonical: str) -> None:
    assert str(Grant.parse(text)) == canonical


def test_relative_paths_and_home() -> None:
    base = PurePosixPath("/srv/app")
    assert str(Grant.parse("file_system:read:../data", base=base)) == "file_system:read:/srv/data"
    assert str(Grant.parse("file_system:read:~/d", home="/home/u")) == "file_system:read:/home/u/d"
    assert str(Grant.parse("file_system:read:~", home="/home/u")) == "file_system:read:/home/u"
    assert str(Grant.parse("basic_execution:./tool", base=base)) == "basic_execution:/srv/app/tool"
    assert str(Grant.parse("basic_execution:~/bin/t*", home="/home/u")) == "basic_execution:/home/u/bin/t*"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("netwrok", "did you mean `network`"),
        ("Network", "did you mean `network`"),
        ("fileSystem:read:/a", "did you mean `file_system`"),
        ("", "known: "),
        ("network:", "empty"),
        ("env:", "empty"),
        ("llm:", "empty"),
        ("basic_execution:", "empty"),
        ("file_system:", "empty"),
        ("function_registration:x", "has no scope"),
        ("function_registration:", "has no scope"),
        ("network:a.example:0", "can never match"),
        ("network:a.example:65536", "can never match"),
        ("network:a.example:99999", "can never match"),
        ("network:a.example:500-400", "can never match"),
        ("network:a.example:", "is not a port"),
        ("network:a.example:x", "is not a port"),
        ("network:a.example:80-", "is not a port"),
        ("network:a.example:-80", "is not a port"),
        ("network:a.example:٤٤٣", "is not a port"),
        ("network::443", "is not a host name"),
        ("network:*.", "is not a host name"),
        ("network:https://a.example/", "not a URL"),
        ("network:::1", "two ways"),
        ("network:2001:db8::1:80", "two ways"),
        ("network:[::1", "brackets"),
        ("network:[::1]80", "brackets"),
        ("network:[a.example]:80", "brackets"),
        ("network:[10.0.0.1]", "brackets"),
        ("network:10.0.0.0/40", "not a block"),
        ("network:a\0b", "NUL"),
        ("file_system:/data", "write `file_system:read:/data`"),
        ("file_system:data", "write `file_system:read:PATH`"),
        ("file_system:raed:/data", "did you mean `read`"),
        ("file_system:read,:/data", "unknown mode"),
        ("file_system:execute:/data", "unknown mode"),
        ("file_system:read:", "empty"),
        ("file_system:read:data", "relative"),
        ("file_system:read:~/data", "no home"),
        ("file_system:read:~other/data", "another user's"),
        ("file_system:read:/data/*.txt", "no globs"),
        ("file_system:read:/" + "a" * 4096, "longer than any path"),
        ("file_system:read:/" + "a" * 5000, "too long"),
        ("basic_execution:bin/git", "relative"),
        ("basic_execution:..", "a folder"),
        ("basic_execution:/", "a folder"),
        ("basic_execution:[ab]", "only wildcard"),
        ("basic_execution:a&b", "can never match"),
        ("basic_execution:a&", "can never match"),
        ("env:A B", "can never match"),
        ("env:A=B", "can never match"),
        ("env:A?", "can never match"),
        ("env:A*&B*", "can never match"),
        ("llm:gpt 5", "can never match"),
    ],
)
def test_what_can_never_match_is_refused_with_help(text: str, told: str) -> None:
    with pytest.raises(PolicyError) as caught:
        Grant.parse(text)
    assert told in str(caught.value)
    assert "\0" not in str(caught.value)


def test_a_home_and_a_base_that_are_not_absolute_are_refused() -> None:
    with pytest.raises(PolicyError, match="no home"):
        Grant.parse("file_system:read:~/d", home="u")
    with pytest.raises(PolicyError, match="is not absolute"):
        Grant.parse("file_system:read:d", base=PurePosixPath("srv"))


def test_a_grant_is_text() -> None:
    with pytest.raises(PolicyError, match="a grant is text"):
        Grant.parse(7)  # type: ignore[arg-type]  # a config file may hold anything


@pytest.mark.parametrize(
    ("permission", "scope"),
    [
        (Permission.FUNCTION_REGISTRATION, FileScope("/a")),
        (Permission.NETWORK, FileScope("/a")),
        (Permission.ENV, NetworkScope(PUBLIC)),
    ],
)
def test_a_scope_of_another_kind_is_refused(permission: Permission, scope: FileScope | NetworkScope) -> None:
    with pytest.raises(PolicyError, match="cannot have the scope"):
        Grant(permission, scope)


@pytest.mark.parametrize("path", ["a", "/a/", "/a/../b", "//a", "/./a", ""])
def test_a_file_scope_is_in_its_normal_form(path: str) -> None:
    with pytest.raises(PolicyError, match="normal form"):
        FileScope(path)


def test_a_file_scope_does_something() -> None:
    with pytest.raises(PolicyError):
        FileScope("/a", read=False, write=False)
    with pytest.raises(PolicyError):
        FileScope(None, read=True, write=False)


@pytest.mark.parametrize(
    "text", ["network:127.0.0.1", "network:10.0.0.0/8", "network:169.254.169.254", "network:[::1]"]
)
def test_bare_network_does_not_cover_what_is_private(text: str) -> None:
    assert not Grant.parse("network").covers(Grant.parse(text))


@pytest.mark.parametrize(
    "text", ["localhost", "metadata.google.internal", "db", "*.internal", "0.0.0.0/0", "[fd00::/8]"]
)
def test_nor_names_and_blocks_that_may_be_private(text: str) -> None:
    assert not Grant.parse("network").covers(Grant.parse(f"network:{text}"))


@pytest.mark.parametrize("text", ["api.github.com", "*.com", "8.8.8.8", "[2001:4860:4860::8888]", "8.0.0.0/7", "*:443"])
def test_bare_network_covers_what_is_public(text: str) -> None:
    assert Grant.parse("network").covers(Grant.parse(f"network:{text}"))


def test_running_is_the_least_of_its_kind() -> None:
    runs, git = Grant.parse("basic_execution"), Grant.parse("basic_execution:git")
    assert git.covers(runs)
    assert not runs.covers(git)
    assert git.meet(Grant.parse("basic_execution:ls")) == (runs,)
    assert runs.meet(git) == git.meet(runs) == (runs,)


def test_paths_nest_by_their_parts() -> None:
    a = Grant.parse("file_system:read:/a")
    assert a.covers(Grant.parse("file_system:read:/a/b"))
    assert not a.covers(Grant.parse("file_system:read:/ab"))
    assert not a.covers(Grant.parse("file_system:write:/a/b"))
    assert not Grant.parse("file_system:read,write:/").covers(Grant.parse("file_system:tmp"))


@given(grants)
def test_covers_is_reflexive(one: Grant) -> None:
    assert one.covers(one)


def test_covers_is_antisymmetric_and_transitive() -> None:
    beneath = {one: {other for other in GRANTS if one.covers(other)} for one in GRANTS}
    for one, lower in beneath.items():
        for other in lower:
            assert beneath[other] <= lower
            assert one == other or one not in beneath[other]


@given(grants, grants)
def test_meet_gives_greatest_lower_bounds(one: Grant, other: Grant) -> None:
    met = one.meet(other)
    assert set(met) == set(other.meet(one))
    assert all(one.covers(grant) and other.covers(grant) for grant in met)
    assert all(not a.covers(b) for a in met for b in met if a != b)
    for grant in GRANTS:
        if one.covers(grant) and other.covers(grant):
            assert any(bound.covers(grant) for bound in met)


@given(grants, grants)
def test_a_deny_refuses_what_it_touches(deny: Grant, grant: Grant) -> None:
    if deny.refuses_all(grant):
        assert deny.refuses_some(grant)
    if deny.permission is not grant.permission:
        assert not deny.refuses_some(grant)
    if deny.refuses_some(grant) and not deny.bare:
        # something is in both, taking `*` in a deny for every target
        target = deny.scope.target if isinstance(deny.scope, NetworkScope) else None
        assert target == PUBLIC or deny.meet(grant)


def test_a_bare_deny_refuses_all_of_its_kind() -> None:
    for kind in KINDS:
        for grant in GRANTS:
            assert Grant(kind).refuses_all(grant) == Grant(kind).refuses_some(grant) == (grant.permission is kind)


def test_a_deny_of_a_port_reaches_private_addresses_too() -> None:
    deny = Grant.parse("network:*:25")
    assert deny.refuses_all(Grant.parse("network:10.0.0.1:25"))
    assert deny.refuses_some(Grant.parse("network:localhost:20-30"))
    assert not deny.refuses_all(Grant.parse("network:localhost:20-30"))
    assert not deny.refuses_some(Grant.parse("network:localhost:26"))


def test_denying_a_program_does_not_deny_to_run() -> None:
    deny = Grant.parse("basic_execution:git")
    assert not deny.refuses_some(Grant.parse("basic_execution"))
    assert not deny.refuses_all(Grant.parse("basic_execution"))
    assert deny.refuses_all(Grant.parse("basic_execution:git"))
    assert deny.refuses_some(Grant.parse("basic_execution:g*"))


def test_denying_a_part_touches_the_bare_kind() -> None:
    assert Grant.parse("env:A").refuses_some(Grant.parse("env"))
    assert not Grant.parse("env:A").refuses_all(Grant.parse("env"))


@pytest.mark.parametrize(
    ("action", "context", "text"),
    [
        ("network", {"host": "API.github.com", "port": 443}, "network:api.github.com:443"),
        ("network", {"host": "api.github.com"}, "network:api.github.com"),
        ("network", {"host": "[::1]", "port": 80}, "network:[::1]:80"),
        ("network", {"host": "::ffff:10.0.0.1", "port": 1}, "network:10.0.0.1:1"),
        ("network", {}, "network"),
        ("network", None, "network"),
        ("file_system", {"path": "/a/../b", "mode": "read"}, "file_system:read:/b"),
        ("file_system", {"path": "/a"}, "file_system:read,write:/a"),
        ("basic_execution", {}, "basic_execution"),
        ("basic_execution", {"program": "/usr/bin/../bin/git"}, "basic_execution:/usr/bin/git"),
        ("basic_execution", {"program": "git"}, "basic_execution:git"),
        ("env", {"name": "A"}, "env:A"),
        ("llm", {"model": "gpt-5"}, "llm:gpt-5"),
        ("function_registration", {}, "function_registration"),
    ],
)
def test_a_request(action: str, context: dict[str, object] | None, text: str) -> None:
    assert str(access(action, context)) == text


@pytest.mark.parametrize(
    ("action", "context"),
    [("netwrok", {}), ("network", {"hots": "a"}), ("env", {"path": "/a"}), ("function_registration", {"name": "x"})],
)
def test_a_mistake_of_the_caller_is_a_policy_error(action: str, context: dict[str, object]) -> None:
    with pytest.raises(PolicyError):
        access(action, context)


@pytest.mark.parametrize(
    ("action", "context"),
    [
        ("network", {"host": "*.example.com"}),
        ("network", {"host": "*"}),
        ("network", {"host": "10.0.0.0/8"}),
        ("network", {"host": ""}),
        ("network", {"host": 7}),
        ("network", {"port": 443}),
        ("network", {"host": "a.example", "port": 0}),
        ("network", {"host": "a.example", "port": True}),
        ("network", {"host": "a.example", "port": "443"}),
        ("network", {"host": "127.1"}),
        ("file_system", {"path": "a"}),
        ("file_system", {"path": "/a\0b"}),
        ("file_system", {"path": "/a", "mode": "execute"}),
        ("file_system", {"path": "/a", "mode": None}),
        ("file_system", {"path": "/a", "mode": ""}),
        ("env", {"name": "A*"}),
        ("llm", {"model": "*"}),
        ("basic_execution", {"program": "../git"}),
    ],
)
def test_a_value_that_no_request_can_have_is_a_value_error(action: str, context: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"must|short form"):
        access(action, context)


def test_a_file_may_have_a_star_in_its_name() -> None:
    assert Grant.parse("file_system:read:/a").covers(access("file_system", {"path": "/a/*", "mode": "read"}))


def test_a_scope_shows_itself() -> None:
    assert repr(Grant.parse("network:a.example:1-2")) == "Grant('network:a.example:1-2')"
    assert str(Pattern.of(["a"])) == "a"
