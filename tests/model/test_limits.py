"""Limits and their units: bare numbers mean what the mission says, and what could be meant in two ways is refused."""

from __future__ import annotations

import pickle
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from remit.errors import PolicyError
from remit.model.limits import UNLIMITED, Bound, Constraints, Limits, RateLimit, RateLimits, Usage
from remit.model.units import bytes_of, bytes_text, count_of, milliseconds_of, milliseconds_text, narrower

bounds = st.integers(1, 2**62) | st.just(UNLIMITED)


@pytest.mark.parametrize(
    ("value", "size"),
    [
        (256 * 1024 * 1024, 268_435_456),
        ("256MiB", 268_435_456),
        ("1MB", 1_000_000),
        ("1 kib", 1024),
        ("1.5GiB", 1_610_612_736),
        ("4096", 4096),
        ("7B", 7),
        ("unlimited", UNLIMITED),
        (UNLIMITED, UNLIMITED),
    ],
)
def test_sizes(value: Any, size: Bound) -> None:
    assert bytes_of(value) == size


@pytest.mark.parametrize(
    "value",
    [1.0, True, None, 0, -1, "", "256M", "MiB", "1.5B", "-1MiB", "1e3", "²MiB", "9" * 30, 2**63, "1TiB" * 2, [1]],
)
def test_sizes_that_mean_nothing(value: Any) -> None:
    with pytest.raises(PolicyError):
        bytes_of(value)


def test_a_size_in_the_form_of_others_is_explained() -> None:
    with pytest.raises(PolicyError, match="write `256MiB`"):
        bytes_of("256M")


@pytest.mark.parametrize(
    ("value", "ms"),
    [
        (5000, 5000),
        (100, 100),
        ("5s", 5000),
        ("250ms", 250),
        ("1ms", 1),
        ("1.5s", 1500),
        ("1m", 60_000),
        ("5min", 300_000),
        ("1h", 3_600_000),
        ("1d", 86_400_000),
        ("1000", 1000),
        (timedelta(seconds=2), 2000),
        (timedelta(milliseconds=5), 5),
        (" Unlimited ", UNLIMITED),
    ],
)
def test_times(value: Any, ms: Bound) -> None:
    assert milliseconds_of(value) == ms


@pytest.mark.parametrize(
    "value",
    [
        5,
        0,
        99,
        -5,
        5.0,
        5000.0,
        True,
        None,
        "5",
        "",
        "s",
        "5 seconds",
        "0s",
        "0.5ms",
        timedelta(0),
        timedelta(microseconds=5),
    ],
)
def test_times_that_mean_nothing_or_too_little(value: Any) -> None:
    with pytest.raises(PolicyError):
        milliseconds_of(value)


def test_a_bare_small_time_says_what_to_write() -> None:
    with pytest.raises(PolicyError, match=r'write "5s" for seconds or "5ms" for milliseconds'):
        Constraints(timeout=5)


@given(bounds)
def test_texts_read_back(value: Bound) -> None:
    assert bytes_of(bytes_text(value)) == value
    assert milliseconds_of(milliseconds_text(value)) == value


@given(bounds, bounds, bounds)
def test_narrower_is_a_meet(a: Bound, b: Bound, c: Bound) -> None:
    assert narrower(a, b) == narrower(b, a)
    assert narrower(narrower(a, b), c) == narrower(a, narrower(b, c))
    assert narrower(a, a) == a
    assert narrower(a, UNLIMITED) == a


@pytest.mark.parametrize("value", [True, 1.0, -1, "x", "1.0", None])
def test_counts_that_are_none(value: Any) -> None:
    with pytest.raises(PolicyError):
        count_of(value)


@pytest.mark.parametrize("value", ["100/1m", "100/60s", "100 / 60000", "100/m", {"limit": 100, "window": 60000}])
def test_rates(value: Any) -> None:
    assert RateLimit.parse(value) == RateLimit(100, 60_000)


@pytest.mark.parametrize(
    "value", [{"max": 100, "windowMs": 60000}, {"maxRequests": "100", "window": "1m"}, RateLimit(100, 60_000)]
)
def test_rates_in_other_words(value: Any) -> None:
    assert str(RateLimit.parse(value)) == "100/1m"


@pytest.mark.parametrize(
    "value",
    [
        "100",
        "/1m",
        "100/",
        "0/1m",
        "100/5",
        "100/unlimited",
        {"limit": 100},
        {"limit": 1, "window": 60},
        {"x": 1},
        100,
        None,
    ],
)
def test_rates_that_mean_nothing(value: Any) -> None:
    with pytest.raises(PolicyError):
        RateLimit.parse(value)


def test_an_unlimited_rate_says_so() -> None:
    rate = RateLimit.parse("unlimited")
    assert rate.limit is UNLIMITED
    assert str(rate) == "unlimited"
    assert RateLimit.parse(UNLIMITED) == rate
    assert repr(RateLimit(1, 1000)) == "RateLimit('1/1s')"


def test_a_rate_is_whole_numbers() -> None:
    for limit, window in ((0, 1000), (1, 0), (1, True), (1.5, 1000), (1, 1000.0)):
        with pytest.raises(PolicyError):
            RateLimit(limit, window)  # type: ignore[arg-type]  # what untyped code may pass


def test_the_defaults_are_those_of_the_design() -> None:
    assert dict(Limits().items()) == {
        "memory": 256 * 2**20,
        "cpu": 1000,
        "connections": 10,
        "file_handles": 100,
        "pool_size": 1000,
        "processes": 1,
        "threads": 64,
        "output": 2**20,
        "file_size": 64 * 2**20,
        "result": 2**20,
    }
    assert dict(Constraints().items()) == {
        "max_tokens": 1000,
        "timeout": 5000,
        "model_timeout": 60_000,
        "approval_timeout": 300_000,
        "queue_timeout": 5000,
        "turn_timeout": None,
        "run_timeout": None,
    }
    assert dict(RateLimits().items()) == {
        "messages": RateLimit(100, 60_000),
        "functions": RateLimit(1000, 3_600_000),
        "default": RateLimit(100, 60_000),
    }


def test_the_missions_numbers_mean_what_they_say() -> None:
    limits = Limits.from_mapping(
        {"memory": 256 * 1024 * 1024, "cpu": 1000, "connections": 10, "fileHandles": 100, "poolSize": 1000}
    )
    assert limits == Limits()
    assert limits.given == {"memory", "cpu", "connections", "file_handles", "pool_size"}
    assert Constraints.from_mapping({"maxTokens": 1000, "timeout": 5000}) == Constraints()
    rates = {"messages": {"limit": 100, "window": 60000}, "functions": {"limit": 1000, "window": 3600000}}
    assert RateLimits.from_mapping(rates) == RateLimits()


def test_repr_writes_units_and_reads_back() -> None:
    limits = Limits(memory="1GiB", cpu="50ms", processes="unlimited")
    assert 'memory="1GiB", cpu="50ms"' in repr(limits)
    assert 'processes="unlimited"' in repr(limits)
    assert eval(repr(limits), {"Limits": Limits}) == limits
    constraints = Constraints(turn_timeout="1m")
    assert eval(repr(constraints), {"Constraints": Constraints}) == constraints
    assert eval(repr(RateLimits()), {"RateLimits": RateLimits}) == RateLimits()
    assert Limits.from_mapping(limits.as_text()) == limits
    assert Constraints.from_mapping(constraints.as_text()) == constraints
    assert limits.as_text(only_given=True) == {"memory": "1GiB", "cpu": "50ms", "processes": "unlimited"}


@pytest.mark.parametrize(
    ("mapping", "told"),
    [
        ({"memroy": 1}, "did you mean `memory`"),
        ({"fileHandels": 1}, "did you mean `file_handles`"),
        ({"fileHandles": 9, "file_handles": 9}, "given twice"),
        ({1: 2}, "is not text"),
        ({"cpu": 5}, "a bare `5` means 5 milliseconds"),
        ({"cpu": 1.5}, "a bare float"),
        ({"file_handles": 2}, "the least is 8"),
        ({"processes": 0}, "the least is 1"),
        ({"memory": "256M"}, "unknown unit"),
    ],
)
def test_a_mapping_that_is_wrong_says_where(mapping: dict[Any, Any], told: str) -> None:
    with pytest.raises(PolicyError) as caught:
        Limits.from_mapping(mapping, where="agents.a.limits")
    assert told in str(caught.value)
    assert str(caught.value).startswith("agents.a.limits: ")


def test_a_mapping_is_one() -> None:
    with pytest.raises(PolicyError, match="must be a mapping"):
        Limits.from_mapping([1])  # type: ignore[arg-type]  # what untyped code may pass


sizes = st.integers(1, 2**40)
limits = st.builds(
    Limits, memory=sizes, cpu=st.integers(100, 10**6), processes=st.integers(1, 9) | st.just("unlimited")
)


@given(limits, limits, limits)
def test_narrowing_is_a_meet_and_never_widens(a: Limits, b: Limits, c: Limits) -> None:
    assert a.narrow(b) == b.narrow(a)
    assert a.narrow(b).narrow(c) == a.narrow(b.narrow(c))
    assert a.narrow(a) == a
    for name, value in a.narrow(b).items():
        assert narrower(value, getattr(a, name)) == value
        assert narrower(value, getattr(b, name)) == value


def test_constraints_narrow_with_none_as_no_bound() -> None:
    narrow = Constraints(turn_timeout="1m").narrow(Constraints(run_timeout="2m", turn_timeout=None, timeout="1s"))
    assert (narrow.turn_timeout, narrow.run_timeout, narrow.timeout) == (60_000, 120_000, 1000)


def test_a_small_time_survives_a_copy() -> None:
    small = Limits(cpu="50ms")
    assert small.replace(memory="1MiB").cpu == 50
    assert small.narrow(Limits()).cpu == 50
    assert pickle.loads(pickle.dumps(small)) == small
    with pytest.raises(PolicyError, match="did you mean"):
        small.replace(memmory=1)
    with pytest.raises(AttributeError):
        small.cpu = 1  # type: ignore[misc]  # that it is frozen is the point


def test_what_code_gives_stays_within_what_the_file_gives() -> None:
    file = Limits(memory="128MiB", cpu="2s")
    within = Limits(memory="64MiB", connections=3).within(file, place="code", ceiling_place="remit.yaml:3:5")
    assert (within.memory, within.cpu, within.connections) == (64 * 2**20, 2000, 3)
    assert Limits().within(file, place="", ceiling_place="").memory == 128 * 2**20
    with pytest.raises(PolicyError) as caught:
        Limits(memory="129MiB").within(file, place="code", ceiling_place="remit.yaml:3:5")
    assert str(caught.value).startswith("code: ")
    assert "remit.yaml:3:5" in str(caught.value)
    # the same as the default, but said: it counts
    with pytest.raises(PolicyError):
        Limits(memory="256MiB").within(file, place="code", ceiling_place="f")
    with pytest.raises(PolicyError):
        Limits(cpu="unlimited").within(file, place="code", ceiling_place="f")


def test_constraints_and_rates_have_a_ceiling_too() -> None:
    file = Constraints(turn_timeout="10s")
    assert Constraints(timeout="9s").within(file, place="", ceiling_place="").turn_timeout == 10_000
    with pytest.raises(PolicyError):
        Constraints(turn_timeout="11s").within(file, place="", ceiling_place="")
    rates = RateLimits(messages="10/1m")
    assert RateLimits(messages="10/2m").within(rates, place="", ceiling_place="").messages == RateLimit(10, 120_000)
    assert RateLimits(messages="1/7s").within(rates, place="", ceiling_place="").messages == RateLimit(1, 7000)
    for wide in ("11/1m", "1/5s", "6/40s", "unlimited"):
        with pytest.raises(PolicyError):
            RateLimits(messages=wide).within(rates, place="", ceiling_place="")
    free = RateLimits(messages="unlimited")
    assert RateLimits(messages="9/1s").within(free, place="", ceiling_place="").messages == RateLimit(9, 1000)


@given(st.integers(1, 9), st.integers(1, 9), st.integers(1, 9), st.integers(1, 9))
def test_a_rate_beneath_another_never_admits_more(limit: int, window: int, most: int, ceiling: int) -> None:
    mine, its = RateLimits(messages=RateLimit(limit, window)), RateLimits(messages=RateLimit(most, ceiling))
    try:
        mine.within(its, place="", ceiling_place="")
    except PolicyError:
        fits = False
    else:
        fits = True
    # the densest stream that keeps `limit` in any `window`: bursts of `limit`, `window` apart
    bursts = [at for at in range(0, 100, window) for _ in range(limit)]
    worst = max(sum(start <= at < start + ceiling for at in bursts) for start in range(20))
    assert fits == (worst <= most)


def test_usage_adds_cpu() -> None:
    usage = Usage(cpu_user_ms=1.5, cpu_system_ms=0.5, peak_memory=7)
    assert usage.cpu_ms == 2.0
    assert usage.as_dict()["peak_memory"] == 7
