"""The way of a call, attacked: order, trail, rate, arguments, authority, results, limits, cancellation."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import time

import anyio
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import remit
from remit.context import acting_as, in_runtime
from remit.errors import (
    AuditError,
    Crashed,
    Denied,
    FunctionRaised,
    LimitExceeded,
    MemoryLimit,
    PolicyError,
    RateLimited,
    SandboxUnavailable,
    TimeLimit,
    ValidationFailed,
)
from remit.model.event import EventType
from remit.model.grants import GrantSet
from remit.model.principal import Principal, SecurityContext
from remit.runtime import Runtime, active_runtime
from tests.jailed import checked, count_events, double, forge, literal, mark, nested, read, spin, take, total, wait
from tests.live import alive, config, descendants, end_default_runtime, events, gone, unique

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module", autouse=True)
def default_runtime():
    yield
    end_default_runtime()


def agent(*functions, **options):
    return remit.ConversableAgent(unique(), functions=functions, **options)


def made(function, *, name="f", permissions=None, limits=None, timeout=None, deny=(), agents_limits=None, **options):
    """An agent with one function `f`."""
    one = agent(limits=agents_limits, **options)
    one.register_function(name, function, permissions=permissions, limits=limits, timeout=timeout, deny=deny)
    return one


async def begun(one, calls=1):
    """Wait until the intents of so many calls are on the trail: there is nothing nearer that a test could wait for."""
    while len(events(principal=one.name, type="call")) < calls:  # noqa: ASYNC110  # a file has no event
        await asyncio.sleep(0.005)


# --- order, and the trail


async def test_each_stage_stands_on_the_trail_in_order():
    one = made(double)
    outcome = await one.outcome("f", {"x": 4})
    told = events(principal=one.name)
    assert [event.type for event in told] == [EventType.REGISTERED, EventType.CALL, EventType.OUTCOME]
    intent, end = told[1:]
    assert intent.call_id == end.call_id == outcome.call_id
    assert end.id == outcome.event_id
    assert intent.arguments_digest == end.arguments_digest
    assert len(intent.arguments_digest) == 64
    assert intent.context["grants"] == ["basic_execution"]
    assert intent.policy_hash == active_runtime().config.policy_hash
    assert end.context["status"] == "returned"
    assert end.context["tier"] == outcome.tier != ""
    assert end.usage["wall_ms"] > 0
    assert outcome.unwrap() == 8


async def test_the_intent_is_committed_before_the_function_runs(tmp_path):
    """The function itself reads the trail: what it sees there is its own intent, and no outcome yet."""

    async with Runtime(config(tmp_path), handle_signals=False) as runtime:
        wal = f"{runtime.audit.path}-wal"
        one = remit.ConversableAgent(
            unique(), security=remit.Security(permissions=["basic_execution", f"file_system:read:{wal}"])
        )
        one.register_function("look", count_events, permissions=["basic_execution", "file_system"])
        assert await one.call("look", path=wal) == [1, 0]
        assert [event.type for event in events(runtime, principal=one.name)][-2:] == ["call", "outcome"]


async def test_what_cannot_be_recorded_does_not_run(tmp_path):
    folder = tmp_path / "out"
    folder.mkdir(mode=0o777)
    folder.chmod(0o777)

    async with Runtime(config(tmp_path), handle_signals=False) as runtime:
        one = remit.ConversableAgent(
            unique(), security=remit.Security(permissions=["basic_execution", f"file_system:read,write:{folder}"])
        )
        one.register_function("mark", mark, permissions=["basic_execution", "file_system"])
        assert await one.call("mark", folder=str(folder)) == 1  # the control: it does leave its mark
        (folder / "mark").unlink()
        with sqlite3.connect(runtime.audit.path) as other:  # another process that holds the trail's lock
            other.execute("BEGIN IMMEDIATE")
            with pytest.raises(AuditError) as caught:
                await one.call("mark", folder=str(folder))
            assert not (folder / "mark").exists()
            other.rollback()
        other.close()
        assert caught.value.remedy
        assert await one.call("mark", folder=str(folder)) == 1


async def test_a_closed_trail_lets_nothing_run(tmp_path):
    runtime = Runtime(config(tmp_path), handle_signals=False)
    with in_runtime(runtime):
        one = made(double)
        assert await one.call("f", x=1) == 2
        runtime.audit.close()
        with pytest.raises(AuditError):
            await one.call("f", x=1)
    runtime._jails.close()


async def test_a_closed_runtime_is_not_replaced_by_a_laxer_one(tmp_path):
    runtime = Runtime(config(tmp_path), handle_signals=False)
    with in_runtime(runtime):
        one = made(double)
        assert await one.call("f", x=1) == 2
        await runtime.shutdown()
        with pytest.raises(Denied, match="shut down"):
            await one.call("f", x=1)


# --- a refused attempt costs, and is recorded


async def test_every_kind_of_refusal_counts_against_the_rate():
    one = made(double, rate_limits={"functions": {"limit": 4, "window": "1h"}})
    with pytest.raises(Denied, match="not a function"):
        await one.call("unknown")
    with pytest.raises(ValidationFailed):
        await one.call("f", x="text")
    with pytest.raises(ValidationFailed):
        await one.call("f", y=1)
    assert await one.call("f", x=1) == 2
    with pytest.raises(RateLimited) as caught:
        await one.call("f", x=1)
    error = caught.value
    assert error.retryable
    assert isinstance(error.retry_after, float)
    assert 0 < error.retry_after <= 3600
    assert "4" in str(error)
    recorded = [event for event in events(principal=one.name) if event.result == "denied"]
    assert [event.type for event in recorded] == ["violation", "violation", "violation", "rate_limited"]
    assert recorded[-1].id == error.event_id
    with pytest.raises(RateLimited):  # and a refused one is told from a function that is not there
        await one.call("unknown")


async def test_a_refusal_carries_what_one_needs():
    one = made(double)
    for attempt, stage in ((one.call("nope"), "authorize"), (one.call("f", x="1"), "validate")):
        with pytest.raises(remit.RemitError) as caught:
            await attempt
        error = caught.value
        assert (bool(error.reason), error.retryable, error.stage) == (True, False, stage)
        assert error.remedy or error.path
        (event,) = events(id=error.event_id)
        assert event.result == "denied"
        assert event.principal == one.name
        assert event.context["stage"] == stage


async def test_an_unknown_function_says_what_there_is():
    with pytest.raises(Denied) as caught:
        await agent(remit.function(double)).call("doubl")
    assert "`double`" in caught.value.remedy
    assert caught.value.rule == "functions"


@pytest.mark.parametrize("name", ["", "a\nb\x1b[2J", "x" * 100_000, "\ud800"])
async def test_a_hostile_name_is_told_in_an_event_that_is_fit_to_be_read(name):
    one = made(double)
    with pytest.raises(Denied) as caught:
        await one.call(name)
    (event,) = events(id=caught.value.event_id)
    assert event.action.isprintable()
    assert len(event.action) <= 128


async def test_an_error_while_deciding_denies_and_is_recorded():
    one = made(checked)
    with pytest.raises(ValidationFailed) as caught:
        await one.call("f", x=1)
    assert events(id=caught.value.event_id)
    another = made(double)
    monitor = active_runtime().monitor
    known = monitor._policies
    monitor._policies = lambda name: 1 / 0
    try:
        above = SecurityContext(chain=(Principal("above"),), grants=GrantSet.of(["basic_execution"]), timestamp=0)
        with acting_as(above), pytest.raises(Denied, match="ZeroDivisionError") as denied:
            await another.call("f", x=1)
    finally:
        monitor._policies = known
    assert denied.value.rule == "error"
    assert events(id=denied.value.event_id)


# --- the checked value is the used value


async def test_what_is_changed_after_the_check_is_not_what_runs():
    one = made(total)
    items = [1, 2, 3]
    running = asyncio.ensure_future(one.outcome("f", {"items": items}))
    await begun(one)
    items.append(1_000_000)
    outcome = await running
    again = await one.outcome("f", {"items": [1, 2, 3]})
    assert outcome.value == 6
    digests = {event.arguments_digest for event in events(principal=one.name, type="call")}
    assert len(digests) == 1
    assert again.value == 6


async def test_a_subclass_of_text_with_methods_of_its_own_is_taken_at_its_letters():
    class Evil(str):
        __slots__ = ()

        def __eq__(self, other) -> bool:
            return True

        def __hash__(self) -> int:
            return hash("f")

        def __str__(self) -> str:
            return "evil"

        def encode(self, *args):
            return b"evil"

    one = made(lambda text: text)
    assert await one.call("f", text=Evil("plain")) == "plain"
    with pytest.raises(Denied):
        await one.call(Evil("not-f"))
    (event,) = events(principal=one.name, type="violation")
    assert event.action == "not-f"


async def test_a_mapping_that_answers_anew_each_time_is_read_once():
    class Flips(dict):
        reads = 0

        def items(self):
            Flips.reads += 1
            return [("x", Flips.reads)]

        def __getitem__(self, key) -> object:
            Flips.reads += 1
            return Flips.reads

    one = made(double)
    outcome = await one.outcome("f", Flips(x=1))
    assert outcome.value in (2, 4)
    (intent,) = events(principal=one.name, type="call")
    from remit.validation import digest

    assert intent.arguments_digest == digest({"x": outcome.value // 2})


# --- authority


@pytest.fixture
def secret(tmp_path):
    tmp_path.chmod(0o755)
    (tmp_path / "secret").write_text("the secret", encoding="utf-8")
    return tmp_path / "secret"


def reader(folder, **options):
    one = agent(security={"permissions": ["basic_execution", f"file_system:read:{folder}"]}, **options)
    one.register_function("read", read, permissions=["basic_execution", "file_system"])
    return one


async def test_a_strong_agent_called_for_a_weak_one_is_weak(secret):
    weak, strong = made(double), reader(secret.parent)
    runtime = active_runtime()
    assert await strong.call("read", path=str(secret)) == "the secret"  # the control
    assert await weak.call("f", x=1) == 2  # the runtime knows it now
    with acting_as(runtime.context_of(weak._holding.settings.policy)), pytest.raises(Denied) as caught:
        await strong.call("read", path=str(secret))
    (outcome,) = events(id=caught.value.event_id)
    assert outcome.chain == (weak.name, strong.name)
    (intent,) = events(call_id=outcome.call_id, type="call")
    assert intent.context["grants"] == ["basic_execution"]


async def test_a_forged_context_is_cut_to_what_its_principals_hold(secret):
    """A context that claims more than the principals in its chain hold gives no more."""
    weak, strong = made(double), reader(secret.parent)
    await weak.call("f", x=1)
    wide = GrantSet.of(["basic_execution", f"file_system:read:{secret.parent}"])
    forged = SecurityContext(chain=(Principal(weak.name),), grants=wide, timestamp=0)
    with acting_as(forged), pytest.raises(Denied):
        await strong.call("read", path=str(secret))


async def test_a_narrowed_context_narrows(secret):
    strong = reader(secret.parent)
    held = strong._holding.settings.policy
    whole = SecurityContext(chain=(Principal(strong.name),), grants=held.grants, timestamp=0)
    with acting_as(whole):
        assert await strong.call("read", path=str(secret)) == "the secret"
    with acting_as(whole.narrowed(GrantSet.of(["basic_execution"]))), pytest.raises(Denied):
        await strong.call("read", path=str(secret))
    with acting_as(whole.narrowed(GrantSet())), pytest.raises(Denied):
        await strong.call("read", path=str(secret))


async def test_a_principal_that_nobody_knows_may_nothing():
    one = made(double)
    stranger = SecurityContext(chain=(Principal("stranger"),), grants=GrantSet.of(["basic_execution"]), timestamp=0)
    with acting_as(stranger), pytest.raises(Denied, match="nothing is known") as caught:
        await one.call("f", x=1)
    assert caught.value.rule == "chain"


async def test_a_deny_beneath_a_grant_holds(secret):
    (secret.parent / "open").write_text("open", encoding="utf-8")
    one = agent(
        security={
            "permissions": ["basic_execution", f"file_system:read:{secret.parent}"],
            "deny": [f"file_system:read:{secret}"],
        }
    )
    one.register_function("read", read, permissions=["basic_execution", "file_system"])
    try:
        assert await one.call("read", path=str(secret.parent / "open")) == "open"
    except SandboxUnavailable as error:
        pytest.skip(f"needs mount namespaces: {error}")
    outcome = await one.outcome("read", {"path": str(secret)})
    assert outcome.status in ("denied", "raised")
    assert "the secret" not in str(outcome)


async def test_a_function_holds_no_more_than_it_was_given(secret):
    one = agent(security={"permissions": ["basic_execution", f"file_system:read:{secret.parent}"]})
    one.register_function("bare", read)
    with pytest.raises(Denied) as caught:
        await one.call("bare", path=str(secret))
    assert f"file_system:read:{secret}" in caught.value.remedy
    with pytest.raises(PolicyError, match="nothing is left"):
        one.register_function("other", read, permissions=["basic_execution", "file_system:read:/etc"])


async def test_grants_that_are_not_served_yet_compare_and_refuse_only_where_they_are_needed():
    one = agent(security={"permissions": ["basic_execution", "network:api.github.com", "env:TOKEN", "llm:gpt-5*"]})
    one.register_function("plain", double)
    assert await one.call("plain", x=2) == 4
    for grant in ("network", "env", "llm", "network:api.github.com:443"):
        kind = grant.partition(":")[0]
        one.register_function(f"needs_{kind}", double, permissions=["basic_execution", grant])
        with pytest.raises(SandboxUnavailable, match=f"{kind} is not brokered yet") as caught:
            await one.call(f"needs_{kind}", x=2)
        assert caught.value.remedy
        assert events(id=caught.value.event_id)[0].result == "denied"
    with pytest.raises(PolicyError):
        one.register_function("wider", double, permissions=["basic_execution", "network:gitlab.com"])


# --- results


async def ended(function, *, name="f", arguments=None, **options):
    return await made(function, **options).outcome(name, arguments or {})


@pytest.mark.parametrize(
    "value",
    [None, True, 0, -(2**70), 1.5, "text \u00e9", b"\x00\xff", [], {}, [1, [2, {"a": None}]], {"k": [b"x", "y"]}, ""],
    ids=repr,
)
async def test_plain_results_come_back_as_they_are(value):
    outcome = await ended(lambda: value)
    assert outcome.status == "returned", outcome
    assert outcome.value == value
    assert type(outcome.value) is type(value)


LITERAL = remit.sandboxed(literal)
PLAIN = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**200), 2**200)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=("Cs", "Cc", "Cf", "Co", "Cn")), max_size=20)
    | st.binary(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text("abc$_", min_size=1, max_size=8), inner, max_size=4)
    ),
    max_leaves=12,
)


@settings(max_examples=25)
@given(value=PLAIN)
def test_any_plain_value_comes_back_equal(value):
    assert LITERAL(repr(value)) == value


@pytest.mark.parametrize(
    "function",
    [
        lambda: float("nan"),
        lambda: float("inf"),
        lambda: object(),  # noqa: PLW0108  # it is what is tested
        lambda: {1: 2},
        lambda: {1, 2},
        lambda: (number for number in range(3)),
        lambda: "\ud800",
        lambda: nested(500),
        lambda: [b""] * 2000,
    ],
    ids=["nan", "infinity", "an object", "a number as key", "a set", "a generator", "a surrogate", "deep", "sections"],
)
async def test_what_is_not_plain_does_not_come_back(function):
    outcome = await ended(function)
    assert outcome.status == "raised", outcome
    assert outcome.value is None
    with pytest.raises(FunctionRaised):
        outcome.unwrap()


async def test_a_result_that_is_too_big():
    outcome = await ended(lambda: "x" * 3_000_000)
    assert (outcome.status, outcome.what) == ("limit", "result")
    with pytest.raises(LimitExceeded) as caught:
        outcome.unwrap()
    assert caught.value.limit == "result"
    small = await ended(lambda: "x" * 5000, limits={"result": "1KiB"})
    assert (small.status, small.what) == ("limit", "result")


async def test_a_tuple_comes_back_as_a_list():
    assert (await ended(lambda: (1, (2,)))).value == [1, [2]]


async def test_what_is_raised_comes_back_as_text():
    def fail() -> None:
        raise LookupError("not there \x1b[2J")

    outcome = await ended(fail)
    assert (outcome.status, outcome.what) == ("raised", "LookupError")
    assert "not there" in outcome.message
    assert "in fail" in outcome.traceback
    with pytest.raises(FunctionRaised) as caught:
        outcome.unwrap()
    assert caught.value.type_name == "LookupError"


async def test_exits_and_hostile_exceptions_are_just_raised():
    class Bad(Exception):
        def __str__(self) -> str:
            raise RuntimeError("no")

    def bad() -> None:
        raise Bad

    def leave() -> None:
        raise SystemExit(0)

    assert (await ended(bad)).status == "raised"
    assert (await ended(leave)).what == "SystemExit"


async def test_what_was_written_is_kept_and_capped():
    def write() -> int:
        import sys

        print("out")
        print("err", file=sys.stderr)
        return 1

    outcome = await ended(write)
    assert (outcome.stdout, outcome.stderr, outcome.value) == (b"out\n", b"err\n", 1)
    assert not outcome.output_truncated

    def flood() -> int:
        print("x" * 100_000)
        return 1

    outcome = await ended(flood, limits={"output": "4KiB"})
    assert len(outcome.stdout) <= 4096
    assert outcome.output_truncated


@pytest.mark.parametrize(
    ("text", "status"),
    [
        ('{"value": 7}', "returned"),  # the control: this is how an answer looks
        ('{"value": 1, "value": 2}', "crashed"),
        ('{"value": NaN}', "crashed"),
        ('{"value": "\\ud800"}', "crashed"),
        ('{"raised": {"type": "\\ud800", "message": "\\ud800\\u001b[2J", "traceback": "\\ud800"}}', "crashed"),
        ('{"raised": {"type": "' + "T" * 200_000 + '", "message": "", "traceback": ""}}', "raised"),
        ('{"raised": {"type": 3, "message": [], "traceback": {}}}', "raised"),
        ('{"raised": {"type": "X", "message": "", "traceback": "", "needs": "\\u001b\\n"}}', "denied"),
        ('{"value": {"$bytes": 7}}', "crashed"),
        ('{"unknown": 1}', "crashed"),
        ("[]", "crashed"),
        ("[" * 50_000, "crashed"),
        ('{"value": ' + "[" * 400 + "]" * 400 + "}", "crashed"),
    ],
    ids=lambda value: value[:24],
)
async def test_whatever_a_jail_sends_ends_in_an_outcome_on_the_trail(text, status):
    outcome = await ended(forge, arguments={"text": text})
    assert outcome.status == status, outcome
    (event,) = events(id=outcome.event_id)
    assert event.context["status"] == status
    if status != "returned":
        str(outcome.error()).encode("utf-8", "backslashreplace")


# --- limits


@pytest.mark.parametrize(
    ("agents", "functions", "calls", "bound"),
    [
        ("300ms", None, None, 300),
        ("20s", "300ms", None, 300),
        ("20s", "10s", "300ms", 300),
        ("300ms", "20s", "20s", 300),
    ],
    ids=["the agent's", "the function's", "the call's", "none is wider"],
)
async def test_the_narrowest_deadline_holds(agents, functions, calls, bound):
    one = made(wait, security={"constraints": {"timeout": agents}}, timeout=functions)
    outcome = await one.outcome("f", {"seconds": 60}, timeout=calls)
    assert (outcome.status, outcome.what, outcome.bound) == ("limit", "timeout", bound)
    with pytest.raises(TimeoutError):
        outcome.unwrap()
    (event,) = events(id=outcome.event_id)
    assert (event.type, event.result, event.enforced_by) == ("limit_exceeded", "denied", "timer")


async def test_cpu_is_bounded():
    outcome = await ended(
        spin, arguments={"seconds": 60}, limits={"cpu": "200ms"}, security={"constraints": {"timeout": "50s"}}
    )
    assert (outcome.status, outcome.what, outcome.bound) == ("limit", "cpu", 200)
    assert isinstance(outcome.error(), TimeLimit)


async def test_memory_is_bounded():
    one = made(take, limits={"memory": "64MiB"})
    assert await one.call("f", size=48 << 20) == 48 << 20
    outcome = await one.outcome("f", {"size": 80 << 20})
    assert (outcome.status, outcome.what) == ("limit", "memory")
    assert isinstance(outcome.error(), MemoryLimit)


async def test_a_crash_is_told_as_one():
    def crash() -> None:
        import os
        import signal

        os.kill(os.getpid(), signal.SIGSEGV)

    outcome = await ended(crash)
    assert outcome.status == "crashed", outcome
    assert isinstance(outcome.error(), Crashed)


async def test_a_limit_is_told_to_who_listens():
    runtime, heard = active_runtime(), []
    listener = runtime.resources.on("limit_exceeded", heard.append)
    try:
        one = made(wait, timeout="200ms")
        await one.outcome("f", {"seconds": 60})
        assert await runtime.emitter.drain()
    finally:
        runtime.resources.off("limit_exceeded", listener)
    assert [event.principal for event in heard] == [one.name]


async def test_a_violation_is_told_to_who_listens():
    runtime, heard = active_runtime(), []
    listener = runtime.policy.on("violation", heard.append)
    try:
        one = made(read)
        with pytest.raises(Denied):
            await one.call("f", path="/etc/shadow")
        with pytest.raises(Denied):
            await one.call("unknown")
        assert await runtime.emitter.drain()
    finally:
        runtime.policy.off("violation", listener)
    assert len([event for event in heard if event.principal == one.name]) >= 2


# --- guarantees


async def test_without_landlock_nothing_runs_and_one_is_told_why(tmp_path):
    async with Runtime(config(tmp_path), handle_signals=False, simulate={"landlock_abi": 0}) as runtime:
        one = made(double)
        with pytest.raises(SandboxUnavailable) as caught:
            await one.call("f", x=1)
        error = caught.value
        assert error.guarantee
        assert "Landlock" in str(error) or "landlock" in str(error)
        assert error.remedy
        (event,) = events(runtime, id=error.event_id)
        assert event.context["error"] == "SandboxUnavailable"


async def test_what_is_missing_may_be_accepted_by_name_and_that_is_recorded(tmp_path):
    async with Runtime(config(tmp_path), handle_signals=False, simulate={"listener": False}) as runtime:
        needy = made(double)
        with pytest.raises(SandboxUnavailable) as caught:
            await needy.call("f", x=1)
        missing = caught.value.guarantee
        assert missing in caught.value.remedy
        bold = made(double, security={"accept_without": [missing]})
        outcome = await bold.outcome("f", {"x": 1})
        assert outcome.accepted == (missing,)
        (event,) = events(runtime, id=outcome.event_id)
        assert event.context["accepted_without"] == [missing]


async def test_an_unknown_guarantee_is_an_error_when_the_agent_is_made():
    with pytest.raises(PolicyError, match="memroy"):
        agent(security={"accept_without": ["memroy"]})


# --- cancellation, queues, many at a time


async def test_a_cancelled_call_is_gone_and_recorded():
    one = made(wait)
    await one.outcome("f", {"seconds": 0})
    before = descendants(os.getpid())
    running = asyncio.ensure_future(one.call("f", seconds=60))
    await begun(one, 2)
    await asyncio.sleep(0.1)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    (event,) = [event for event in events(principal=one.name, type="outcome") if event.context["status"] == "killed"]
    assert event.context["what"] == "cancelled"
    assert gone({pid for pid in descendants(os.getpid()) - before if _sleeps(pid)})


@pytest.fixture(scope="module", autouse=True)
def others():
    """What tests of other files run beneath this process."""
    return descendants(os.getpid())


def _sleeps(pid):
    try:
        with open(f"/proc/{pid}/wchan", encoding="utf-8") as file:
            return "nanosleep" in file.read()
    except OSError:
        return False


async def test_a_cancelled_call_frees_its_place():
    one = made(wait, agents_limits={"pool_size": 1})
    running = asyncio.ensure_future(one.call("f", seconds=60))
    await begun(one)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert await one.call("f", seconds=0) == 1


async def test_a_timeout_of_anyios_cancels_it():
    with anyio.move_on_after(0.3) as scope:
        await made(wait).call("f", seconds=60)
    assert scope.cancelled_caught


async def test_beyond_the_pool_a_call_waits_and_not_for_ever():
    one = made(
        wait, agents_limits={"pool_size": 1}, security={"constraints": {"queue_timeout": "300ms", "timeout": "20s"}}
    )
    first = asyncio.ensure_future(one.outcome("f", {"seconds": 2}))
    await begun(one)
    await asyncio.sleep(0.1)
    second = await one.outcome("f", {"seconds": 0})
    assert (second.status, second.what, second.bound) == ("limit", "queue_timeout", 300)
    assert second.error().retryable
    assert (await first).ok
    assert (await one.outcome("f", {"seconds": 0})).ok


async def test_a_pool_of_one_serves_one_after_the_other():
    one = made(wait, agents_limits={"pool_size": 1}, security={"constraints": {"queue_timeout": "60s"}})
    outcomes = await asyncio.gather(*(one.outcome("f", {"seconds": 0}) for _ in range(8)))
    assert all(outcome.ok for outcome in outcomes)


async def test_many_at_a_time_do_not_mix():
    one = made(double)
    values = await asyncio.gather(*(one.call("f", x=number) for number in range(40)))
    assert values == [2 * number for number in range(40)]


async def test_only_so_many_templates_live(tmp_path, monkeypatch):
    monkeypatch.setattr("remit.runtime._MOST_TEMPLATES", 4)
    async with Runtime(config(tmp_path), handle_signals=False) as runtime:
        functions = [remit.sandboxed(eval(f"lambda: {number}")) for number in range(12)]
        for number, function in enumerate(functions):
            assert await asyncio.to_thread(function) == number
        assert await asyncio.to_thread(functions[0]) == 0  # one that was dropped comes back
        assert len(runtime._jails._leases) <= 4
        supervisor = runtime.start_jails()
        deadline = time.monotonic() + 20
        while len([template for template in supervisor._templates.values() if not template.gone]) > 4:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.02)


async def test_a_template_that_serves_is_not_dropped(tmp_path, monkeypatch):
    monkeypatch.setattr("remit.runtime._MOST_TEMPLATES", 1)
    async with Runtime(config(tmp_path), handle_signals=False):
        slow = made(wait)
        running = asyncio.ensure_future(slow.outcome("f", {"seconds": 1}))
        await asyncio.sleep(0.3)
        for number in range(3):
            assert await made(eval(f"lambda: {number}")).call("f") == number
        assert (await running).ok


# --- describing what is not imported here


async def test_an_import_that_fails_is_on_the_trail():
    from remit.shipping import from_source

    name = unique()
    with pytest.raises(FunctionRaised, match="ValueError") as caught:
        await active_runtime().describe(name, from_source("raise ValueError('no')\n", "f"))
    assert events(id=caught.value.event_id)[0].principal == name
    with pytest.raises(Denied, match="needs file_system:read:/etc/shadow"):
        await active_runtime().describe(name, from_source("open('/etc/shadow')\ndef f(): pass\n", "f"))


async def test_a_guests_own_words_about_its_signature_are_not_believed():
    from remit.shipping import from_source

    text = "def f(x: int): pass\nf.__name__ = 'evil\\x1b'\n"
    described = await active_runtime().describe(unique(), from_source(text, "f"))
    assert described["parameters"][0]["name"] == "x"


def test_nothing_of_a_jail_is_left_running(others):
    """The last test of this file: what the calls above left behind are warm jails and templates, no call."""
    assert not {pid for pid in alive(descendants(os.getpid()) - others) if _sleeps(pid)}
