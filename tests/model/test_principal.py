"""The security context: narrowed and labelled, never widened; a user's check can only say no."""

from __future__ import annotations

import asyncio
import functools
import threading
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from remit.errors import PolicyError
from remit.model.grants import GrantSet
from remit.model.permission import access
from remit.model.principal import Principal, SecurityContext

HELD = GrantSet.of(["basic_execution", "network:api.github.com:443", "env:TOKEN"], deny=["env:TOKEN"])


def context(**changes: Any) -> SecurityContext:
    return SecurityContext(**{"chain": (Principal("agent-1"),), "grants": HELD, "timestamp": 1, **changes})


@pytest.mark.parametrize("name", ["", "a\nb", "a" * 129, "a\u202eb", 7])
def test_a_principal_has_a_printable_name(name: Any) -> None:
    with pytest.raises(PolicyError):
        Principal(name)


def test_a_principal_is_of_a_known_kind() -> None:
    assert Principal("ann", "person").kind == "person"
    assert str(Principal("ann")) == "ann"
    with pytest.raises(PolicyError, match="did you mean `agent`"):
        Principal("ann", "agnet")


@pytest.mark.parametrize(
    "changes",
    [
        {"chain": ()},
        {"chain": ("agent-1",)},
        {"chain": (Principal("a"),) * 65},
        {"timestamp": 1.5},
        {"timestamp": True},
    ],
)
def test_a_context_is_whole(changes: dict[str, Any]) -> None:
    with pytest.raises(PolicyError):
        context(**changes)


def test_who_and_what() -> None:
    outer = context(labels=frozenset({"x"}))
    inner = outer.acting(Principal("agent-2"), GrantSet.of(["basic_execution", "llm"])).labelled("untrusted")
    assert inner.principal == "agent-2"
    assert inner.names == ("agent-1", "agent-2")
    assert inner.permissions == ("basic_execution",)
    assert inner.labels == {"x", "untrusted"}
    assert (inner.scope, inner.environment, inner.timestamp) == ("application", "production", 1)
    assert outer.narrowed(GrantSet.of(["network"])).permissions == ("network:api.github.com:443",)


TEXTS = ["network", "network:api.github.com", "llm", "env:T*", "basic_execution", "file_system:read:/a"]


@given(st.lists(st.lists(st.sampled_from(TEXTS), max_size=4), max_size=4))
def test_a_chain_only_shrinks(chain: list[list[str]]) -> None:
    here = context()
    for position, grants in enumerate(chain):
        there = here.acting(Principal(f"agent-{position}"), GrantSet.of(grants))
        assert here.grants.covers_all(there.grants)
        assert GrantSet.of(grants).covers_all(there.grants)
        here = there


def test_repr_has_no_check_in_it() -> None:
    class Holder:
        def __repr__(self) -> str:
            return "s3cret"

        def __call__(self, action: str, given: Mapping[str, Any]) -> bool:
            return True

    assert "s3cret" not in repr(context(check=Holder()))


@pytest.mark.anyio
async def test_a_permission_is_checked_against_the_grants() -> None:
    assert await context().check_permission("network", {"host": "api.github.com", "port": 443})
    assert not await context().check_permission("network", {"host": "api.github.com", "port": 80})
    assert not await context().check_permission("network", {"host": "evil.example", "port": 443})
    assert not await context().check_permission("env", {"name": "TOKEN"})  # denied, though granted
    assert await context().check_permission("basic_execution")


@pytest.mark.anyio
async def test_hostile_values_are_refused_and_mistakes_are_told() -> None:
    assert not await context().check_permission("network", {"host": "api.github.com\0", "port": 443})
    assert not await context().check_permission("env", {"name": "*"})
    with pytest.raises(PolicyError, match="did you mean `network`"):
        await context().check_permission("netwrok", {})
    with pytest.raises(PolicyError, match="says nothing"):
        await context().check_permission("network", {"hostname": "a"})


@pytest.mark.anyio
async def test_a_check_cannot_allow_what_the_grants_do_not() -> None:
    asked: list[str] = []

    def check(action: str, given: Mapping[str, Any]) -> bool:
        asked.append(action)
        return True

    assert not await context(check=check).check_permission("llm", {"model": "gpt-5"})
    assert asked == []
    assert await context(check=check).check_permission("basic_execution")
    assert asked == ["basic_execution"]


@pytest.mark.anyio
@pytest.mark.parametrize("answer", [False, None, 1, "yes"])
async def test_a_check_says_yes_with_true_alone(answer: Any) -> None:
    async def later(action: str, given: Mapping[str, Any]) -> Any:
        return answer

    assert not await context(check=lambda action, given: answer).check_permission("basic_execution")
    assert not await context(check=later).check_permission("basic_execution")


@pytest.mark.anyio
async def test_a_check_may_be_async_in_any_form() -> None:
    async def yes(action: str, given: Mapping[str, Any]) -> bool:
        return True

    def later(check: Any, action: str, given: Mapping[str, Any]) -> Any:
        return check(action, given)

    assert await context(check=yes).check_permission("basic_execution")
    assert await context(check=functools.partial(later, yes)).check_permission("basic_execution")


@pytest.mark.anyio
async def test_a_check_that_raises_denies() -> None:
    def broken(action: str, given: Mapping[str, Any]) -> bool:
        raise RuntimeError("broken")

    async def cancelled(action: str, given: Mapping[str, Any]) -> bool:
        raise asyncio.CancelledError

    assert not await context(check=broken).check_permission("basic_execution")
    assert not await context(check=cancelled).check_permission("basic_execution")


@pytest.mark.anyio
async def test_a_check_that_takes_over_a_second_denies() -> None:
    release = threading.Event()
    ended = asyncio.Event()

    def blocks(action: str, given: Mapping[str, Any]) -> bool:
        return release.wait(30)

    async def stubborn(action: str, given: Mapping[str, Any]) -> bool:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            ended.set()
        raise RuntimeError("too late")

    try:
        assert not await context(check=blocks).check_permission("basic_execution")
    finally:
        release.set()
    assert not await context(check=stubborn).check_permission("basic_execution")
    await ended.wait()


@pytest.mark.anyio
async def test_a_check_cannot_change_what_was_asked() -> None:
    def meddles(action: str, given: Any) -> bool:
        given["name"] = "OTHER"
        return True

    asked = {"host": "api.github.com", "port": 443}
    assert await context(check=meddles).check_permission("network", asked)
    assert asked == {"host": "api.github.com", "port": 443}
    assert HELD.allows(access("network", asked))
