"""What is declared, what is held, and who may add to it."""

from __future__ import annotations

import pytest

import remit
from remit.agent.holding import Declared, Holding
from remit.context import acting_as
from remit.errors import AuditError, Denied, PolicyError
from remit.model.grants import GrantSet
from remit.model.principal import Principal, SecurityContext
from remit.runtime import active_runtime
from tests.jailed import double, read, wait
from tests.live import config, events, unique

pytestmark = pytest.mark.anyio


def context(name, *grants):
    return SecurityContext(chain=(Principal(name),), grants=GrantSet.of(["basic_execution", *grants]), timestamp=0)


# --- declared


def test_a_declaration_beneath_another_only_narrows():
    above = Declared.of(
        double,
        permissions=["basic_execution"],
        deny=["network"],
        limits={"memory": "64MiB"},
        timeout="2s",
        ship="value",
    )
    below = Declared.of(double, name="x", limits={"cpu": "500ms", "memory": "128MiB"}, timeout="9s").beneath(above)
    assert below.name == "x"
    assert below.permissions == ("basic_execution",)
    assert below.deny == ("network",)
    assert below.timeout == 2000
    assert (below.limits.memory, below.limits.cpu) == (64 << 20, 500)
    assert below.ship == "value"
    assert Declared.of(double, timeout="1s").beneath(above).timeout == 1000


@pytest.mark.parametrize("name", ["", "a b", "a\n", "x" * 129, "é-x", "a/b", "<lambda>"])
def test_a_name_that_no_model_can_call(name):
    with pytest.raises(PolicyError) as caught:
        Declared.of(double if name else (lambda: 1), name=name or None)
    assert caught.value.remedy


# --- names


@pytest.mark.parametrize("name", ["host", "function word_count", "", "x" * 129, "a\x1b[2J"])
def test_a_name_that_belongs_to_another_or_to_nobody(name):
    with pytest.raises(PolicyError):
        remit.ConversableAgent(name)


def test_an_agent_called_as_another_with_other_grants():
    name = unique()
    first = remit.ConversableAgent(name)
    second = remit.ConversableAgent(name, security={"permissions": ["basic_execution", "network:api.github.com"]})
    first._holding.runtime()
    with pytest.raises(PolicyError, match="two agents"):
        second._holding.runtime()


# --- limits


def test_what_counts_over_an_agent_is_not_a_functions():
    one = remit.ConversableAgent(unique())
    for limits in ({"pool_size": 1}, {"connections": 1}):
        with pytest.raises(PolicyError, match="agent") as caught:
            one.register_function("f", double, limits=limits)
        assert caught.value.remedy


def test_a_function_only_narrows_its_agents_limits():
    one = remit.ConversableAgent(unique(), limits={"memory": "64MiB"}, security={"constraints": {"timeout": "1s"}})
    made = one._holding.add(wait, Declared.of(wait, limits={"memory": "128MiB", "cpu": "300ms"}, timeout="9s"))
    assert (made.limits.memory, made.limits.cpu, made.constraints.timeout) == (64 << 20, 300, 1000)


# --- registration


async def test_a_registration_is_on_the_trail_before_the_first_call_and_when_it_is_awaited():
    one = remit.ConversableAgent(unique())
    made = one.register_function("f", double)
    assert events(principal=one.name) == []
    assert await made is made
    (event,) = events(principal=one.name)
    assert (event.type, event.action, event.context["how"]) == ("registered", "f", "reference")


async def test_a_registration_that_could_not_be_recorded_is_not_forgotten(monkeypatch):
    one = remit.ConversableAgent(unique())
    one.register_function("f", double)
    monitor = active_runtime().monitor

    async def fail(event):
        raise AuditError("full")

    with monkeypatch.context() as patch:
        patch.setattr(monitor, "record", fail)
        with pytest.raises(AuditError):
            await one.call("f", x=1)
    assert await one.call("f", x=1) == 2
    assert [event.type for event in events(principal=one.name)] == ["registered", "call", "outcome"]


async def test_the_host_needs_no_permission_and_acting_code_does():
    one = remit.ConversableAgent(unique())
    one.register_function("by_host", double)
    acting = context(one.name)
    with acting_as(acting), pytest.raises(Denied) as caught:
        one.register_function("by_itself", double)
    error = caught.value
    assert error.rule == "function_registration"
    assert "function_registration" in error.remedy
    (event,) = events(id=error.event_id)
    assert (event.action, event.resource, event.principal) == ("register_function", "by_itself", one.name)
    assert [tool["name"] for tool in one.tools] == ["by_host"]


async def test_what_acting_code_adds_is_at_most_what_it_holds(tmp_path):
    grants = ["basic_execution", "function_registration", f"file_system:read:{tmp_path}"]
    one = remit.ConversableAgent(unique(), security={"permissions": grants})
    with acting_as(context(one.name, "function_registration")):  # it acts for somebody who may not read
        one.register_function("plain", double)
        with pytest.raises(PolicyError, match="more than who registers it"):
            one.register_function("reads", read, permissions=["basic_execution", "file_system"])
    assert await one.call("plain", x=1) == 2
    (event,) = events(principal=one.name, type="registered")
    assert event.context["by"] == one.name


async def test_acting_code_does_not_replace_the_deployers_functions():
    one = remit.ConversableAgent(unique(), security={"permissions": ["basic_execution", "function_registration"]})
    one.register_function("f", double)
    with acting_as(context(one.name, "function_registration")):
        with pytest.raises(Denied, match="already"):
            one.register_function("f", lambda x: 666)
        one.register_function("g", lambda x: 1)
        one.register_function("g", lambda x: 2)  # its own it may
    assert await one.call("f", x=1) == 2
    assert await one.call("g", x=1) == 2
    one.register_function("f", lambda x: 3)  # and the deployer may
    assert await one.call("f", x=1) == 3


def test_there_is_an_end_to_adding(monkeypatch):
    monkeypatch.setattr("remit.agent.holding._MOST_FUNCTIONS", 2)
    one = remit.ConversableAgent(unique())
    one.register_function("a", double)
    one.register_function("b", double)
    with pytest.raises(PolicyError, match="2 functions"):
        one.register_function("c", double)
    one.register_function("b", double)


def test_settled_policies_do_not_pile_up(tmp_path):
    holding = Holding(unique())
    for number in range(20):
        other = config(tmp_path, rate_limiting={"default": f"{number + 1}/1m"})
        holding._settle(other)
    assert len(holding._settled) <= 8
