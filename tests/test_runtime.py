"""The life of a runtime: from its first event to its last, however the process ends."""

from __future__ import annotations

import asyncio
import os
import signal
import threading

import pytest

import remit
from remit import SecurityEvent, SecurityValidator, log_security_event
from remit.context import acting_as, in_runtime
from remit.errors import AuditError, PolicyError, RateLimited, RemitError, ValidationFailed
from remit.model.grants import GrantSet
from remit.model.principal import Principal, SecurityContext
from remit.policy.decide import AgentPolicy
from remit.runtime import HOST, Runtime, active_runtime, run_sync
from tests.jailed import double, wait
from tests.live import config, descendants, end_default_runtime, events, gone, run, started, trail_of, unique

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module", autouse=True)
def default_runtime():
    yield
    end_default_runtime()


def types(path):
    return [event.type for event in events(path)]


# --- beginning and end


async def test_begin_and_end_are_on_the_trail(tmp_path):
    async with Runtime(config(tmp_path), handle_signals=False) as runtime:
        assert types(runtime.audit.path) == ["started"]
        assert not runtime.closed
    assert runtime.closed
    assert types(runtime.audit.path) == ["started", "stopped"]
    with pytest.raises(AuditError):
        await runtime.log(SecurityEvent(type="late", principal="x", action="x", result="allowed"))


async def test_no_process_outlives_it(tmp_path):
    before = descendants(os.getpid())
    async with Runtime(config(tmp_path), handle_signals=False):
        one = remit.ConversableAgent(unique(), functions=[remit.function(double)])
        assert await one.call("double", x=1) == 2
        ours = descendants(os.getpid()) - before
        assert ours
    assert gone(ours)


async def test_shutting_down_twice_is_once(tmp_path):
    runtime = Runtime(config(tmp_path), handle_signals=False)
    await asyncio.gather(runtime.shutdown(), runtime.shutdown())
    runtime.close()
    assert types(runtime.audit.path) == ["started", "stopped"]


async def test_the_block_is_not_left_before_the_end_that_another_has_begun(tmp_path):
    """What is cleaned up after the block - a folder with the trail in it, say - must not be needed any more."""

    async def slow():
        await asyncio.sleep(0.3)

    async with Runtime(config(tmp_path), handle_signals=False) as runtime:
        runtime.resources.register_resource(id="slow", type="x", cleanup=slow)
        other = asyncio.ensure_future(runtime.shutdown())
        await asyncio.sleep(0)
    assert types(runtime.audit.path) == ["started", "stopped"]
    await other


async def test_a_call_in_flight_ends_as_killed(tmp_path):
    async with Runtime(config(tmp_path), handle_signals=False) as runtime:
        one = remit.ConversableAgent(unique(), functions=[remit.function(wait)])
        assert await one.call("wait", seconds=0) == 1
        running = asyncio.ensure_future(one.outcome("wait", {"seconds": 60}))
        await asyncio.sleep(0.3)
        await asyncio.to_thread(runtime.end_jails)
        outcome = await running
    assert outcome.status == "killed"
    assert isinstance(outcome.error(), remit.Killed)
    assert events(runtime.audit.path, id=outcome.event_id)


async def test_users_resources_are_cleaned_last_in_first_out(tmp_path):
    order = []

    async def last():
        order.append("async")

    async with Runtime(config(tmp_path), handle_signals=False) as runtime:
        runtime.resources.register_resource(id="first", type="x", cleanup=lambda: order.append("sync"))
        runtime.resources.register_resource(id="second", type="x", cleanup=last)
    assert order == ["async", "sync"]


async def test_a_failing_cleanup_is_told_on_the_trail_and_stops_nothing(tmp_path):
    def fail():
        raise OSError("stuck")

    async with Runtime(config(tmp_path), handle_signals=False) as runtime:
        runtime.resources.register_resource(id="bad", type="x", cleanup=fail)
    (stopped,) = events(runtime.audit.path, type="stopped")
    assert "stuck" in str(stopped.context["cleanup_failures"])


async def test_a_cancelled_shutdown_still_ends_everything(tmp_path):
    runtime = Runtime(config(tmp_path), handle_signals=False)
    runtime.start_jails()
    entered = asyncio.Event()

    async def slow():
        entered.set()
        await asyncio.sleep(0.3)

    runtime.resources.register_resource(id="slow", type="x", cleanup=slow)
    ending = asyncio.ensure_future(runtime.shutdown())
    await entered.wait()
    ending.cancel()
    with pytest.raises(asyncio.CancelledError):
        await ending
    assert types(runtime.audit.path) == ["started", "stopped"]
    assert not runtime.start_jails.__self__._jails.running()


async def test_a_runtime_that_cannot_begin_leaves_nothing_behind(tmp_path, monkeypatch):
    threads = set(threading.enumerate())

    def fail(self, kind, context):
        raise AuditError("full")

    monkeypatch.setattr(Runtime, "_note", fail)
    with pytest.raises(AuditError, match="full"):
        Runtime(config(tmp_path), handle_signals=False)
    left = {thread for thread in threading.enumerate() if thread not in threads and thread.name.startswith("remit")}
    for thread in left:
        thread.join(10)
    assert not any(thread.is_alive() for thread in left)


async def test_an_error_in_the_block_goes_through_and_the_end_is_recorded(tmp_path):
    with pytest.raises(ZeroDivisionError):
        async with Runtime(config(tmp_path), handle_signals=False) as runtime:
            raise ZeroDivisionError
    assert types(runtime.audit.path) == ["started", "stopped"]


def test_signal_handlers_are_put_back_by_each_runtime(tmp_path):
    """Runtime after runtime does not pile up handlers, each of which would keep its runtime alive."""
    before = signal.getsignal(signal.SIGTERM)

    async def once(number):
        async with Runtime(config(tmp_path / str(number))):
            assert signal.getsignal(signal.SIGTERM) is not before

    for number in range(3):
        (tmp_path / str(number)).mkdir(mode=0o700)
        asyncio.run(once(number))
        assert signal.getsignal(signal.SIGTERM) is before


# --- in processes of their own

MAIN = "\n    import asyncio\n    async def main():\n        "
WORKS = """
    import os, signal, sys, time
    import remit

    @remit.function
    def double(x: int) -> int:
        return 2 * x

    @remit.function
    def wait(x: int) -> int:
        import time
        time.sleep(60)

    safe = remit.sandboxed(double)

    def ready():
        print("ready", flush=True)
"""


def test_the_default_runtime_ends_with_the_program(tmp_path):
    out = run(
        tmp_path,
        WORKS
        + """
    import asyncio
    async def main():
        print(await double(2))
    if __name__ == "__main__":
        asyncio.run(main())
        print(safe(4))
        children = [int(n) for n in os.listdir("/proc") if n.isdigit()]
    """,
    )
    assert out.split() == ["4", "8"]
    assert types(trail_of(tmp_path))[0] == "started"
    assert types(trail_of(tmp_path))[-1] == "stopped"


@pytest.mark.parametrize(
    ("head", "body"),
    [
        ("\n    ", "print(safe(1)); ready(); time.sleep(60)"),
        (MAIN, "print(await double(1)); ready(); await asyncio.sleep(60)"),
        (MAIN, "print(await double(1)); ready(); time.sleep(60)"),
        (MAIN, "print(await double(1)); ready(); await wait(1)"),
        (MAIN, "async with remit.Runtime(): print(await double(1)); ready(); await asyncio.sleep(60)"),
    ],
    ids=["plain code", "a loop", "a blocked loop", "in a call", "a runtime of its own"],
)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_signal_ends_it_in_order(tmp_path, head, body, number):
    if number == signal.SIGINT and head is MAIN and "time.sleep" in body:
        number = signal.SIGTERM  # asyncio takes the first SIGINT for a cancellation, which a blocked loop never sees
    end = "\n    asyncio.run(main())\n" if head is MAIN else "\n"
    with started(tmp_path, f"{WORKS}{head}{body}{end}") as process:
        assert process.stdout.readline() == "2\n", process.stderr.read()
        assert process.stdout.readline() == "ready\n"
        ours = descendants(process.pid)
        assert ours
        process.send_signal(number)
        process.communicate(timeout=60)
    assert process.returncode in (-number, 128 + number, 1)  # 1: Python's own KeyboardInterrupt
    assert gone(ours)
    assert types(trail_of(tmp_path))[-1] == "stopped"


def test_on_a_signal_a_program_that_leaves_the_block_puts_its_own_away(tmp_path):
    body = """
        try:
            async with remit.Runtime(): print(await double(1)); ready(); await wait(1)
        finally:
            await asyncio.sleep(0.05); open("put-away", "w").close()
    asyncio.run(main())
    """
    with started(tmp_path, WORKS + MAIN.rstrip() + body) as process:
        assert process.stdout.readline() == "2\n", process.stderr.read()
        process.stdout.readline()
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=60)
    assert process.returncode in (-signal.SIGTERM, 1), errors
    assert (tmp_path / "put-away").exists()


def test_a_killed_host_leaves_no_process_behind(tmp_path):
    with started(tmp_path, WORKS + "\n    print(safe(1)); ready(); time.sleep(60)\n") as process:
        process.stdout.readline()
        process.stdout.readline()
        ours = descendants(process.pid)
        process.kill()
        process.communicate(timeout=60)
    assert ours
    assert gone(ours)
    assert types(trail_of(tmp_path))[-1] != "stopped"


def test_an_error_at_the_top_still_ends_it_in_order(tmp_path):
    with started(tmp_path, WORKS + "\n    print(safe(1)); raise SystemExit(7)\n") as process:
        process.communicate(timeout=60)
    assert process.returncode == 7
    assert types(trail_of(tmp_path))[-1] == "stopped"


def test_a_forked_child_has_a_runtime_of_its_own(tmp_path):
    out = run(
        tmp_path,
        WORKS
        + """
    print(safe(1), flush=True)
    child = os.fork()
    if not child:
        try:
            print(safe(2), flush=True)
            from remit.runtime import active_runtime
            active_runtime().close()
        finally:
            os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    print(safe(3), flush=True)
    """.replace("os._exit(0)", "os._exit(0 if sys.exc_info()[0] is None else 1)"),
    )
    assert out.split() == ["2", "4", "6"]
    assert types(trail_of(tmp_path)).count("started") == 2
    assert types(trail_of(tmp_path)).count("stopped") == 2


def test_a_forked_child_of_a_current_runtime_can_call_too(tmp_path):
    out = run(
        tmp_path,
        WORKS
        + """
    import asyncio
    async def main():
        async with remit.Runtime() as runtime:
            print(await double(1), flush=True)
            child = os.fork()
            if not child:
                done = 1
                try:
                    from remit.context import in_runtime
                    with in_runtime(runtime):
                        print(remit.run_sync(double(2).__await__ and double._call((2,), {})), flush=True)
                    runtime._jails.close()
                    done = 0
                finally:
                    os._exit(done)
            assert os.waitpid(child, 0)[1] == 0
            print(await double(3), flush=True)
    asyncio.run(main())
    """.replace("double(2).__await__ and ", ""),
    )
    assert out.split() == ["2", "4", "6"]


def test_threads_that_come_first_together_make_one_runtime(tmp_path):
    out = run(
        tmp_path,
        WORKS
        + """
    import threading
    from remit.runtime import active_runtime
    barrier, found, values = threading.Barrier(8), [], []
    def work():
        barrier.wait()
        found.append(id(active_runtime()))
        values.append(safe(5))
    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads: thread.start()
    for thread in threads: thread.join()
    print(len(set(found)), set(values))
    """,
    )
    assert out.split() == ["1", "{10}"]
    assert types(trail_of(tmp_path)).count("started") == 1


# --- code that is not asynchronous


async def test_a_jailed_function_works_inside_a_running_loop():
    assert remit.sandboxed(double)(21) == 42
    assert run_sync(remit.function(double)._call((2,), {})) == 4


def test_it_says_so_when_it_would_wait_for_itself():
    async def inner():
        work = asyncio.sleep(0)
        run_sync(work)

    with pytest.raises(RemitError, match="own loop"):
        run_sync(inner())


def test_an_error_comes_out_as_it_is():
    async def fail():
        raise KeyError("x")

    with pytest.raises(KeyError):
        run_sync(fail())


# --- who


def context(name, *grants):
    return SecurityContext(chain=(Principal(name),), grants=GrantSet.of(["basic_execution", *grants]), timestamp=0)


def policy(name, *grants):
    return AgentPolicy(name=name, grants=GrantSet.of(["basic_execution", *grants]))


def test_two_agents_of_one_name_and_other_grants_are_an_error():
    runtime, name = active_runtime(), unique()
    runtime.know(policy(name))
    runtime.know(policy(name))
    with pytest.raises(PolicyError, match="two agents") as caught:
        runtime.know(policy(name, "network:api.github.com"))
    assert caught.value.remedy


def test_a_context_on_behalf_of_another_has_both_and_less(tmp_path):
    runtime = active_runtime()
    assert runtime.context_of(policy("b")).names == ("b",)
    with acting_as(context("a", "network:api.github.com").labelled("untrusted")) as above:
        made = runtime.context_of(policy("b", "network:gitlab.com"))
        assert made.names == ("a", "b")
        assert made.permissions == ("basic_execution",)
        assert made.labels == {"untrusted"}
        same = runtime.context_of(policy("a", "network:*.github.com"), frozenset({"more"}))
        assert same.names == ("a",)
        assert same.grants == above.grants
        assert same.labels == {"untrusted", "more"}
        assert same.timestamp > above.timestamp


def test_a_long_talk_does_not_make_a_long_chain():
    runtime = active_runtime()
    made = context("x", "network:api.github.com")
    for _ in range(200):
        for name in ("a", "b", "c"):
            with acting_as(made):
                made = runtime.context_of(policy(name))
    assert len(made.chain) < 10
    assert set(made.names) == {"x", "a", "b", "c"}
    assert made.names[0] == "x"
    assert made.names[-1] == "c"
    assert made.permissions == ("basic_execution",)


# --- what users call


async def test_a_limit_of_ones_own():
    runtime, action = active_runtime(), unique("send")
    for _ in range(3):
        await runtime.policy.enforce_rate_limit(action, limit=3, window="60s")
    with pytest.raises(RateLimited) as caught:
        await runtime.policy.enforce_rate_limit(action, limit=3, window="60s")
    assert 0 < caught.value.retry_after <= 60
    (event,) = events(id=caught.value.event_id)
    assert (event.principal, event.action, event.result) == (HOST, action, "denied")
    (used,) = runtime.policy.rate_usage(action=action)
    assert used.limit == 3
    with acting_as(context("somebody-else")):
        await runtime.policy.enforce_rate_limit(action, limit=3, window="60s")


async def test_a_hundred_a_minute_unless_one_says_otherwise():
    runtime, action = active_runtime(), unique("default")
    for _ in range(100):
        await runtime.policy.enforce_rate_limit(action)
    with pytest.raises(RateLimited):
        await runtime.policy.enforce_rate_limit(action)


async def test_a_limit_is_told_to_who_listens():
    runtime, action, heard = active_runtime(), unique("send"), []
    listener = runtime.on("limit_exceeded", heard.append)
    try:
        await runtime.policy.enforce_rate_limit(action, limit=1, window="60s")
        with pytest.raises(RateLimited):
            await runtime.policy.enforce_rate_limit(action, limit=1, window="60s")
        assert await runtime.emitter.drain()
    finally:
        runtime.emitter.off("limit_exceeded", listener)
    assert [event.action for event in heard] == [action]


@pytest.mark.parametrize("bad", [{"limit": 0}, {"limit": -1}, {"window": 5}, {"window": 1.5}, {"window": "soon"}])
async def test_a_limit_that_cannot_be_meant_is_an_error(bad):
    with pytest.raises(PolicyError):
        await active_runtime().policy.enforce_rate_limit("x", **{"limit": 1, "window": "60s", **bad})


async def test_input_is_checked_and_what_comes_back_is_what_to_use():
    given = {"a": [1, "x"]}
    checked = await SecurityValidator.validate_input(given, context("who"))
    assert checked == given
    assert checked is not given
    for bad in ("x" * ((1 << 20) + 1), b"\xff", {"a": float("nan")}, {"a": object()}, {1: 2}):
        with pytest.raises(ValidationFailed) as caught:
            await SecurityValidator.validate_input(bad, context("who"))
        (event,) = events(id=caught.value.event_id)
        assert (event.principal, event.action, event.result) == ("who", "validate_input", "denied")


async def test_an_event_of_ones_own_is_recorded_and_told():
    runtime, heard = active_runtime(), []
    listener = runtime.on("*", heard.append)
    name = unique("mine")
    try:
        recorded = await log_security_event(
            SecurityEvent(type="backup.done", principal=name, action="backup", resource="/data", result="allowed")
        )
        assert await runtime.emitter.drain()
    finally:
        runtime.emitter.off("*", listener)
    (event,) = events(principal=name)
    assert event.id == recorded.id
    assert event.timestamp > 0
    assert name in [event.principal for event in heard]


async def test_an_event_that_is_none_is_refused():
    with pytest.raises(AuditError):
        await log_security_event(SecurityEvent(type="no good", principal="x", action="x", result="allowed"))


async def test_a_runtime_of_ones_own_has_its_own_policy(tmp_path):
    """One agent in two runtimes at a time: each call under the policy of its runtime, whatever the other does."""
    strict = config(tmp_path / "strict", rate_limiting={"functions": {"limit": 1, "window": "1h"}})
    lax = config(tmp_path / "lax")
    for name in ("strict", "lax"):
        (tmp_path / name).mkdir(mode=0o700)
    one = remit.ConversableAgent(unique(), functions=[remit.function(double)])
    first, second = Runtime(strict, handle_signals=False), Runtime(lax, handle_signals=False)

    async def calls(runtime, count):
        done = []
        with in_runtime(runtime):
            for number in range(count):
                try:
                    done.append(await one.call("double", x=number))
                except RateLimited:
                    done.append("limited")
        return done

    narrow, wide = await asyncio.gather(calls(first, 4), calls(second, 4))
    await asyncio.gather(first.shutdown(), second.shutdown())
    assert narrow == [0, "limited", "limited", "limited"]
    assert wide == [0, 2, 4, 6]
    assert len(events(first.audit.path, type="outcome")) == 1
    assert len(events(second.audit.path, type="outcome")) == 4


async def test_what_the_file_does_not_give_code_cannot_take(tmp_path):
    narrow = config(tmp_path, agents={"a": {"permissions": ["basic_execution"]}})
    runtime = Runtime(narrow, handle_signals=False)
    with in_runtime(runtime), pytest.raises(PolicyError, match="more than"):
        remit.ConversableAgent("a", security={"permissions": ["basic_execution", "network:api.github.com"]})
    wide = remit.ConversableAgent("a", security={"permissions": ["basic_execution", "network:api.github.com"]})
    wide.register_function("double", double)
    with in_runtime(runtime), pytest.raises(PolicyError, match="more than"):
        await wide.call("double", x=1)
    await runtime.shutdown()


def test_without_linux_the_library_still_loads():
    assert set(remit.__all__) <= set(dir(remit))
    assert all(getattr(remit, name) is not None for name in remit.__all__)
    with pytest.raises(AttributeError, match="nonsense"):
        _ = remit.nonsense


def test_importing_it_is_light(tmp_path):
    out = run(
        tmp_path,
        """
        import sys
        import remit
        heavy = {"pydantic", "cloudpickle", "cryptography", "asyncio", "sqlite3", "yaml"} & set(sys.modules)
        print(sorted(heavy))
        """,
    )
    assert out.strip() == "[]"
