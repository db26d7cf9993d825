"""The decision point: deny by default, deny wins, authority only shrinks, an error denies."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from remit.errors import PolicyError
from remit.model.grants import GrantSet
from remit.model.permission import Grant, Permission, access
from remit.policy.decide import (
    AgentPolicy,
    FunctionPolicy,
    RegisteredFunction,
    authorize,
    check_agent,
    check_registration,
    permit,
    unknown_function,
)


def agent(*grants: str, deny: tuple[str, ...] = (), name: str = "agent-1", **more: Any) -> AgentPolicy:
    return AgentPolicy(name=name, grants=GrantSet.of(grants, deny=deny), **more)


def function(*grants: str, deny: tuple[str, ...] = (), omitted: bool = False) -> FunctionPolicy:
    permissions = None if omitted else tuple(map(Grant.parse, grants))
    return FunctionPolicy(name="fetch", permissions=permissions, deny=tuple(map(Grant.parse, deny)))


def held(registered: RegisteredFunction) -> list[str]:
    return registered.grants.as_text()


def test_a_call_has_what_agent_and_function_both_have() -> None:
    registered = check_registration(
        function("basic_execution", "network:*.github.com:443", "file_system:read,write:/data"),
        agent("basic_execution", "network:api.github.com", "file_system:read:/data/in"),
    )
    assert held(registered) == ["network:api.github.com:443", "basic_execution", "file_system:read:/data/in"]
    decision = authorize(registered)
    assert decision.allowed
    assert decision.grants == registered.grants


def test_omitted_permissions_are_the_default_and_not_all_that_the_agent_has() -> None:
    holds = agent("basic_execution:git", "network", "file_system:read:/data")
    assert held(check_registration(function(omitted=True), holds)) == ["basic_execution"]
    with_network = agent(
        "basic_execution", "network:a.example", default=tuple(map(Grant.parse, ("basic_execution", "network")))
    )
    assert held(check_registration(function(omitted=True), with_network)) == ["network:a.example", "basic_execution"]


@pytest.mark.parametrize(
    ("bare", "holds"),
    [
        ("network", "network:10.0.0.1:80"),  # a private address, that `network` alone would not reach
        ("file_system", "file_system:read:/data"),
        ("env", "env:TOKEN"),
        ("llm", "llm:gpt-5*"),
    ],
)
def test_a_bare_kind_on_a_function_is_what_its_agent_holds_of_it(bare: str, holds: str) -> None:
    registered = check_registration(function("basic_execution", bare), agent("basic_execution", holds, "llm:other"))
    assert registered.grants.covers(Grant.parse(holds))
    assert registered.grants.kinds() == {Permission.BASIC_EXECUTION, Permission(bare)}


def test_bare_basic_execution_hands_on_no_programs() -> None:
    assert held(check_registration(function("basic_execution"), agent("basic_execution:git"))) == ["basic_execution"]


@pytest.mark.parametrize(
    ("wants", "holds", "told"),
    [
        (["network:a.example"], ["basic_execution", "network"], "not given `basic_execution`"),
        ([], ["basic_execution"], "not given `basic_execution`"),
        (["basic_execution"], ["network"], "holds no `basic_execution`"),
        (
            ["basic_execution", "network:a.example"],
            ["basic_execution", "network:b.example"],
            "holds `network:b.example`",
        ),
        (["basic_execution", "env"], ["basic_execution"], "holds no `env`"),
        (["basic_execution", "function_registration"], ["basic_execution"], "holds no `function_registration`"),
    ],
)
def test_a_function_that_could_never_do_its_work_is_refused_at_registration(
    wants: list[str], holds: list[str], told: str
) -> None:
    with pytest.raises(PolicyError) as caught:
        check_registration(function(*wants), agent(*holds))
    assert told in str(caught.value)
    assert caught.value.place == "agent-1.fetch"
    assert caught.value.remedy


def test_denies_of_agent_and_function_both_win() -> None:
    registered = check_registration(
        function("basic_execution", "file_system:read:/data", deny=("file_system:read:/data/b",)),
        agent("basic_execution", "file_system:read:/data", deny=("file_system:read:/data/a",)),
    )
    for path, allowed in (("/data/a/x", False), ("/data/b", False), ("/data/c", True)):
        decision = permit(registered.grants, access("file_system", {"path": path, "mode": "read"}))
        assert decision.allowed == allowed
    with pytest.raises(PolicyError, match="nothing is left"):
        check_registration(
            function("basic_execution", "network:a.example"), agent("basic_execution", "network", deny=("network",))
        )


def test_a_chain_shrinks_what_a_call_may_do() -> None:
    registered = check_registration(
        function("basic_execution", "network:a.example"), agent("basic_execution", "network")
    )
    outer = agent("basic_execution", "network:a.example:443", name="outer")
    decision = authorize(registered, [outer, registered.agent])
    assert decision.allowed
    assert decision.grants.as_text() == ["network:a.example:443", "basic_execution"]
    assert authorize(registered, [registered.agent]).grants == registered.grants
    refused = authorize(registered, [agent("network", name="outer")])
    assert (refused.allowed, refused.rule, bool(refused.grants)) == (False, "chain outer", False)
    assert "`outer`" in refused.reason


TEXTS = ["basic_execution", "basic_execution:git", "network", "network:a.example:443", "network:10.0.0.0/8", "env:A*"]
TEXTS += ["llm", "file_system:read:/data", "file_system:read,write:/data/in", "function_registration"]
policies = st.builds(
    lambda grants, deny: agent(*grants, deny=tuple(deny), name="other"),
    st.lists(st.sampled_from(TEXTS), max_size=6),
    st.lists(st.sampled_from(TEXTS), max_size=2),
)


@given(st.lists(st.sampled_from(TEXTS), max_size=5), policies, st.lists(policies, max_size=3))
def test_no_call_may_do_more_than_anyone_in_it(wants: list[str], holder: AgentPolicy, chain: list[AgentPolicy]) -> None:
    try:
        registered = check_registration(function(*wants), holder)
    except PolicyError:
        return
    decision = authorize(registered, chain)
    for policy in (holder, *chain):
        assert policy.grants.covers_all(decision.grants)
    bare = {text for text in wants if ":" not in text}
    for grant in decision.grants:
        assert str(grant.permission) in bare or GrantSet.of(wants).covers(grant)
    assert decision.allowed == bool(decision.grants)


def test_an_error_while_deciding_denies() -> None:
    registered = check_registration(function("basic_execution"), agent("basic_execution"))
    decision = authorize(registered, [agent("basic_execution", name="x"), None])  # type: ignore[list-item]  # the point
    assert (decision.allowed, decision.rule) == (False, "error")
    assert (permit(GrantSet(), None).allowed, permit(GrantSet(), None).rule) == (False, "error")  # type: ignore[arg-type]  # see above


def test_a_request_is_told_what_decided_and_what_would_change_it() -> None:
    grants = GrantSet.of(["network:*.example.com"], deny=["network:*:25"])
    web = permit(grants, access("network", {"host": "a.example.com", "port": 443}))
    mail = permit(grants, access("network", {"host": "a.example.com", "port": 25}))
    other = permit(grants, access("network", {"host": "b.example", "port": 443}))
    assert (web.allowed, web.rule) == (True, "grant network:*.example.com")
    assert (mail.allowed, mail.rule) == (False, "deny network:*:25")
    assert (other.allowed, other.rule, other.remedy) == (
        False,
        "no grant",
        "grant `network:b.example:443`, if it should be allowed",
    )


def test_an_unknown_function_is_denied_with_the_nearest_known() -> None:
    decision = unknown_function("fecth", agent(), ["fetch", "count"])
    assert (decision.allowed, decision.rule, decision.remedy) == (False, "functions", "did you mean `fetch`?")
    assert unknown_function("x", agent(), []).remedy == "register it with the agent"


@pytest.mark.parametrize("text", ["file_system", "env"])
def test_some_kinds_are_never_bare_on_an_agent(text: str) -> None:
    with pytest.raises(PolicyError, match="without a scope") as caught:
        check_agent(agent("basic_execution", text), restricted=())
    assert text in caught.value.remedy


def test_what_is_restricted_is_never_bare_on_an_agent() -> None:
    check_agent(agent("basic_execution", "network", "llm", "function_registration"))
    check_agent(agent("network:a.example", "env:*"), restricted=[Permission.NETWORK])
    check_agent(agent("basic_execution"), restricted=[Permission.BASIC_EXECUTION])
    with pytest.raises(PolicyError, match="`network` without a scope"):
        check_agent(agent("network"), restricted=[Permission.NETWORK], place="remit.yaml:3:1")


def test_without_enforcement_a_function_has_what_it_declares() -> None:
    registered = check_registration(function("network:a.example"), agent(enforced=False))
    decision = authorize(registered, [agent(name="outer")])
    assert (decision.allowed, decision.rule) == (True, "permissions.enabled")
    assert decision.grants.as_text() == ["network:a.example", "basic_execution"]
    assert held(check_registration(function("basic_execution:git"), agent(enforced=False))) == ["basic_execution:git"]
