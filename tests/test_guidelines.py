"""Every name that users type, as the guidelines write it, and an effect of each."""

from __future__ import annotations

import asyncio
import datetime as dt
import inspect
import os
import subprocess
import sys

import pytest

import remit
from remit import (
    Constraints,
    ConversableAgent,
    Limits,
    Principal,
    Security,
    SecurityContext,
    SecurityEvent,
    SecurityValidator,
    log_security_event,
)
from remit.model.grants import GrantSet
from remit.runtime import active_runtime, run_sync
from tests import jailed
from tests.live import config, end_default_runtime, events, run, unique

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module", autouse=True)
def default_runtime():
    yield
    end_default_runtime()


@remit.function(permissions=["basic_execution"])
def word_count(text: str) -> int:
    return len(text.split())


def fn(x: int) -> int:
    return 2 * x


def example_agent(**more):
    return ConversableAgent(
        name=unique("agent"),
        functions=[word_count],
        security=Security(
            permissions=["network:api.github.com", "basic_execution"],
            constraints=Constraints(max_tokens=1000, timeout="5s"),
        ),
        limits=Limits(memory="256MiB", cpu="1s", connections=10, file_handles=100, pool_size=1000),
        **more,
    )


# --- the block of code, line by line


async def test_a_marked_function():
    assert await word_count("a b c") == 3
    assert word_count.__wrapped__("a b") == 2


async def test_the_agent_and_its_limits():
    agent = example_agent()
    assert await agent.call("word_count", text="a b c") == 3
    settings = agent._holding.settings
    assert set(settings.policy.grants.as_text()) == {"basic_execution", "network:api.github.com"}
    assert (settings.constraints.max_tokens, settings.constraints.timeout) == (1000, 5000)
    limits = settings.limits
    assert (limits.memory, limits.cpu, limits.connections, limits.file_handles, limits.pool_size) == (
        256 << 20,
        1000,
        10,
        100,
        1000,
    )


async def test_register_function_and_its_result_may_be_awaited():
    agent = example_agent()
    agent.register_function(name="safe_operation", permissions=["basic_execution"], handler=fn)
    assert await agent.call("safe_operation", x=2) == 4
    made = await agent.register_function(name="again", permissions=["basic_execution"], handler=fn)
    assert await made(3) == 6


async def test_the_agents_decorator_bare_and_with_arguments():
    agent = example_agent()

    @agent.function
    def bare(x: int) -> int:
        return x + 1

    @agent.function(permissions=["basic_execution"], timeout="1s")
    def given(x: int) -> int:
        return x + 2

    assert [await bare(1), await given(1)] == [2, 3]
    assert [await agent.call("bare", x=1), await agent.call("given", x=1)] == [2, 3]


async def test_outcome_never_raises_for_what_the_function_did():
    agent = example_agent()
    outcome = await agent.outcome("word_count", {"text": "a b c"}, timeout="2s")
    assert (outcome.ok, outcome.value, outcome.status) == (True, 3, "returned")
    agent.register_function("waits", jailed.wait)
    outcome = await agent.outcome("waits", {"seconds": 60}, timeout="200ms")
    assert (outcome.ok, outcome.what, outcome.bound) == (False, "timeout", 200)


def test_sandboxed_is_a_plain_callable_sync_for_sync():
    safe = remit.sandboxed(fn, permissions=["basic_execution"])
    assert inspect.signature(safe) == inspect.signature(fn)
    assert safe(21) == 42

    async def slow(x: int) -> int:
        return x + 1

    assert asyncio.run(remit.sandboxed(slow)(1)) == 2


async def test_the_runtime_block(tmp_path):
    cleaned, heard, limited = [], [], []
    async with remit.Runtime(config(tmp_path), handle_signals=False) as rt:
        security_context = SecurityContext(
            chain=(Principal("agent-1"),), grants=GrantSet.of(["network:api.github.com"]), timestamp=0
        )
        message = {"text": "hello"}
        assert await SecurityValidator.validate_input(message, security_context) == message
        await rt.policy.enforce_rate_limit("send_message", limit=100, window="60s")
        rt.resources.register_resource(id="connection-1", type="connection", cleanup=lambda: cleaned.append(1))
        rt.policy.on("violation", heard.append)

        @rt.resources.on("limit_exceeded")
        def on_limit(event):
            limited.append(event)

        assert await security_context.check_permission("network", {"host": "api.github.com"}) is True
        assert await security_context.check_permission("network", {"host": "evil.example"}) is False
        recorded = await log_security_event(
            SecurityEvent(
                type="violation", principal="agent-1", action="connect", resource="evil.example", result="denied"
            )
        )
        (event,) = events(rt, id=recorded.id)
        assert event.resource == "evil.example"
        agent = ConversableAgent("agent-1")
        agent.register_function("waits", jailed.wait, timeout="200ms")
        await agent.outcome("waits", {"seconds": 60})
        assert await rt.emitter.drain()
        assert [event.action for event in heard] == ["connect"]
        assert [event.action for event in limited] == ["waits"]
        assert rt.audit is not None
    assert cleaned == [1]


def test_a_default_runtime_at_first_use(tmp_path):
    out = run(
        tmp_path,
        """
        import asyncio, remit

        @remit.function(permissions=["basic_execution"])
        def word_count(text: str) -> int:
            return len(text.split())

        print(asyncio.run(word_count._call(("a b c",), {})))
        """,
    )
    assert out == "3\n"
    assert (tmp_path / "state" / "audit.db").exists()


# --- the bullets


async def test_security_and_limits_take_plain_mappings_in_either_spelling():
    camel = ConversableAgent(
        unique(),
        security={"permissions": ["basic_execution"], "constraints": {"maxTokens": 10, "timeout": 5000}},
        limits={"fileHandles": 50, "poolSize": 3},
    )
    snake = ConversableAgent(
        unique(),
        security={"permissions": ["basic_execution"], "constraints": {"max_tokens": 10, "timeout": "5s"}},
        limits={"file_handles": 50, "pool_size": 3},
    )
    assert camel._holding.settings.limits == snake._holding.settings.limits
    assert camel._holding.settings.constraints == snake._holding.settings.constraints
    with pytest.raises(remit.PolicyError, match="fileHandels"):
        ConversableAgent(unique(), limits={"fileHandels": 1})


async def test_run_sync_works_inside_a_running_loop():
    assert run_sync(word_count._call(("a b",), {})) == 2
    assert example_agent().run_sync(word_count.outcome("a b")).value == 2


async def test_no_singletons_the_current_runtime_is_used(tmp_path):
    async with remit.Runtime(config(tmp_path), handle_signals=False) as rt:
        with pytest.raises(remit.ValidationFailed) as caught:
            await SecurityValidator.validate_input(b"\xff")
        assert events(rt, id=caught.value.event_id)
        assert not events(active_runtime() if active_runtime() is not rt else rt, id="none")
    assert not events(id=caught.value.event_id)


def test_the_tree_of_errors():
    errors = remit
    parents = {
        errors.Denied: PermissionError,
        errors.RateLimited: errors.RemitError,
        errors.ValidationFailed: ValueError,
        errors.TimeLimit: TimeoutError,
        errors.MemoryLimit: MemoryError,
        errors.FunctionRaised: errors.RemitError,
        errors.Killed: errors.RemitError,
        errors.Crashed: errors.RemitError,
        errors.SandboxUnavailable: errors.RemitError,
        errors.PolicyError: errors.RemitError,
    }
    for kind, parent in parents.items():
        assert issubclass(kind, parent)
        assert issubclass(kind, errors.RemitError)
    assert issubclass(errors.TimeLimit, errors.LimitExceeded)
    assert issubclass(errors.MemoryLimit, errors.LimitExceeded)
    for name in ("reason", "remedy", "event_id", "retryable"):
        assert hasattr(errors.RemitError("x"), name)
    assert isinstance(errors.RateLimited("x", retry_after=1.5).retry_after, float)


async def test_what_a_function_raised_is_type_message_and_traceback():
    agent = example_agent()

    def fails() -> None:
        raise KeyError("k")

    agent.register_function("fails", fails)
    with pytest.raises(remit.FunctionRaised) as caught:
        await agent.call("fails")
    assert (caught.value.type_name, caught.value.message) == ("KeyError", "'k'")
    assert "in fails" in caught.value.traceback


@pytest.mark.parametrize("value", [5, 99, 5.0, 0.5, True, "5", -1, "5 lightyears"])
def test_times_that_cannot_be_meant(value):
    with pytest.raises(remit.PolicyError):
        Constraints(timeout=value)


def test_units():
    assert Constraints(timeout=5000) == Constraints(timeout="5s") == Constraints(timeout=dt.timedelta(seconds=5))
    assert Limits(memory=268435456) == Limits(memory="256MiB")
    rates = remit.RateLimits.from_mapping({"functions": "100/1m"})
    assert (rates.functions.limit, rates.functions.window_ms) == (100, 60_000)
    assert "256MiB" in repr(Limits(memory=268435456))
    assert "5s" in repr(Constraints(timeout=5000))


def test_the_missions_defaults():
    agent = ConversableAgent(unique())
    settings = agent._holding.settings
    assert settings.policy.grants.as_text() == ["basic_execution"]
    limits = settings.limits
    assert (limits.memory, limits.cpu, limits.connections, limits.file_handles, limits.pool_size) == (
        256 << 20,
        1000,
        10,
        100,
        1000,
    )
    assert (settings.constraints.max_tokens, settings.constraints.timeout) == (1000, 5000)
    assert settings.constraints.queue_timeout == 5000
    rates = settings.rate_limits
    assert (rates.messages.limit, rates.messages.window_ms) == (100, 60_000)
    assert (rates.functions.limit, rates.functions.window_ms) == (1000, 3_600_000)
    assert active_runtime().config.validation.max_size == 1 << 20
    assert active_runtime().config.monitoring.audit_trail


async def test_null_only_where_the_signature_says_so_and_nan_never():
    agent = example_agent()
    agent.register_function("plain", lambda x: 1)

    @agent.function
    def optional(x: int | None) -> bool:
        return x is None

    @agent.function
    def data(x: bytes) -> int:
        return len(x)

    assert await agent.call("optional", x=None) is True
    assert await agent.call("data", x=b"\xff\x00") == 2
    for name, bad in (("plain", None), ("plain", float("nan")), ("plain", b"x"), ("word_count", None)):
        with pytest.raises(remit.ValidationFailed):
            await agent.call(name, **{"text" if name == "word_count" else "x": bad})


def test_unlimited_is_explicit():
    assert Limits(cpu="unlimited").cpu is remit.UNLIMITED
    assert Limits().cpu is not remit.UNLIMITED


async def test_unlimited_is_recorded():
    agent = ConversableAgent(unique(), limits=Limits(cpu="unlimited"))
    await agent.register_function("f", fn)
    (event,) = events(principal=agent.name, type="registered")
    assert event.context["unlimited"] == ["cpu"]


async def test_a_functions_own_limits_only_narrow():
    agent = ConversableAgent(unique(), limits=Limits(memory="64MiB"))
    agent.register_function("take", jailed.take, limits={"memory": "1GiB"})
    with pytest.raises(remit.MemoryLimit):
        await agent.call("take", size=100 << 20)


async def test_omitted_permissions_mean_the_default_and_never_all(tmp_path):
    tmp_path.chmod(0o755)
    (tmp_path / "x").write_text("here", encoding="utf-8")
    agent = ConversableAgent(
        unique(), security=Security(permissions=["basic_execution", f"file_system:read:{tmp_path}"])
    )
    agent.register_function("default", jailed.read)
    agent.register_function("bare_kind", jailed.read, permissions=["basic_execution", "file_system"])
    with pytest.raises(remit.Denied):
        await agent.call("default", path=str(tmp_path / "x"))
    assert await agent.call("bare_kind", path=str(tmp_path / "x")) == "here"


def test_an_empty_intersection_is_an_error_at_registration():
    with pytest.raises(remit.PolicyError):
        ConversableAgent(unique()).register_function("f", fn, permissions=["basic_execution", "network"])
    with pytest.raises(remit.PolicyError):
        ConversableAgent(unique()).register_function("f", fn, permissions=[])


# --- the six permissions


async def test_basic_execution():
    with pytest.raises(remit.PolicyError):
        ConversableAgent(unique(), security=Security(permissions=["network:x.example"])).register_function("f", fn)

    def look() -> dict:
        import os

        return {"environment": dict(os.environ), "pid": os.getpid()}

    seen = await ConversableAgent(unique()).register_function("look", look)()
    assert seen["environment"] == {}
    assert seen["pid"] != os.getpid()


async def test_basic_execution_of_a_program():
    def start() -> str:
        import subprocess

        return subprocess.run(["/bin/echo", "started"], capture_output=True, check=True, text=True).stdout

    with pytest.raises(remit.RemitError):
        await ConversableAgent(unique()).register_function("start", start)()
    agent = ConversableAgent(
        unique(),
        security=Security(permissions=["basic_execution:/bin/echo"]),
        limits=Limits(processes=4),
    )
    agent.register_function("start", start, permissions=["basic_execution:/bin/echo"])
    try:
        assert await agent.call("start") == "started\n"
    except remit.SandboxUnavailable as error:
        pytest.skip(f"needs user namespaces: {error}")


async def test_file_system(tmp_path):
    tmp_path.chmod(0o777)
    with pytest.raises(remit.PolicyError):
        ConversableAgent(unique(), security=Security(permissions=["basic_execution", "file_system"]))
    agent = ConversableAgent(
        unique(), security=Security(permissions=["basic_execution", f"file_system:read,write:{tmp_path}"])
    )
    agent.register_function("mark", jailed.mark, permissions=["basic_execution", "file_system"])
    agent.register_function("only_reads", jailed.mark, permissions=["basic_execution", f"file_system:read:{tmp_path}"])
    assert await agent.call("mark", folder=str(tmp_path)) == 1
    assert (tmp_path / "mark").exists()
    (tmp_path / "mark").unlink()
    with pytest.raises(remit.Denied):
        await agent.call("only_reads", folder=str(tmp_path))
    assert not (tmp_path / "mark").exists()


async def test_a_private_scratch():
    def scratch() -> list:
        import os
        import tempfile

        place = tempfile.gettempdir()  # /tmp, or what TMPDIR says where a granted path lies beneath /tmp
        found = os.listdir(place)
        with open(f"{place}/x", "w") as file:
            file.write("x")
        return found

    agent = ConversableAgent(unique(), security=Security(permissions=["basic_execution", "file_system:tmp"]))
    agent.register_function("scratch", scratch, permissions=["basic_execution", "file_system:tmp"])
    try:
        assert [await agent.call("scratch") for _ in range(2)] == [[], []]
    except remit.SandboxUnavailable as error:
        pytest.skip(f"needs mount namespaces: {error}")


async def test_network():
    def connect() -> None:
        import socket

        socket.create_connection(("127.0.0.1", 9), timeout=1)

    with pytest.raises(remit.Denied) as caught:
        await ConversableAgent(unique()).register_function("connect", connect)()
    assert "network:" in str(caught.value)
    agent = example_agent()
    agent.register_function("connect", connect, permissions=["basic_execution", "network:api.github.com"])
    with pytest.raises(remit.SandboxUnavailable, match="network is not brokered yet"):
        await agent.call("connect")


@pytest.mark.parametrize(("grant", "kind"), [("env:GITHUB_TOKEN", "env"), ("llm:gpt-5*", "llm")])
async def test_env_and_llm_parse_attenuate_and_refuse(grant, kind):
    agent = ConversableAgent(unique(), security=Security(permissions=["basic_execution", grant]))
    agent.register_function("plain", fn)
    agent.register_function("needs", fn, permissions=["basic_execution", grant])
    assert await agent.call("plain", x=1) == 2
    with pytest.raises(remit.SandboxUnavailable, match=f"{kind} is not brokered yet"):
        await agent.call("needs", x=1)
    with pytest.raises(remit.PolicyError):
        agent.register_function("more", fn, permissions=["basic_execution", f"{kind}:OTHER"])


def test_env_bare_on_an_agent_is_an_error():
    with pytest.raises(remit.PolicyError):
        ConversableAgent(unique(), security=Security(permissions=["basic_execution", "env"]))


async def test_function_registration():
    source = "def added(x: int) -> int:\n    return x + 1\n"
    asks = remit.ToolRequest("register_function", {"name": "added", "source": source})
    without = ConversableAgent(unique(), model=remit.ScriptedModel([asks, "done"]))
    await without.run("go")
    with pytest.raises(remit.Denied):
        await without.call("added", x=1)
    able = ConversableAgent(
        unique(),
        model=remit.ScriptedModel([asks, "done"]),
        security=Security(permissions=["basic_execution", "function_registration"]),
    )
    await able.run("go")
    assert await able.call("added", x=1) == 2


def test_the_public_names():
    names = (
        "function ConversableAgent Security Constraints Limits sandboxed Runtime SecurityValidator SecurityEvent "
        "log_security_event SecurityContext RemitError Denied RateLimited ValidationFailed LimitExceeded TimeLimit "
        "MemoryLimit FunctionRaised Killed Crashed SandboxUnavailable PolicyError run_sync"
    )
    for name in names.split():  # a list of them would be a page
        assert name in remit.__all__
        assert getattr(remit, name) is not None


def test_a_program_that_imports_everything_at_once():
    text = "from remit import *\nassert Security and run_sync and ConversableAgent"
    subprocess.run([sys.executable, "-W", "error", "-c", text], check=True, timeout=60)
