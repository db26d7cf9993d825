from __future__ import annotations

import math
import sys
import threading
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from remit.errors import RateLimited
from remit.ratelimit import Demand, MemoryLimiter

MS = 1_000_000


class Clock:
    def __init__(self) -> None:
        self.now = 5

    def __call__(self) -> int:
        return self.now


@pytest.fixture
def clock():
    return Clock()


def test_a_verdict_is_its_answer(clock):
    limiter = MemoryLimiter(clock)
    demand = Demand("alice", 2, 1000)
    first = limiter.take([demand])
    assert first
    assert (first.remaining, first.retry_after, first.refusal) == (1, 0.0, "")
    assert limiter.take([demand])
    refused = limiter.take([demand])
    assert not refused
    assert (refused.refusal, refused.limit, refused.window_ms, refused.remaining) == ("rate", 2, 1000, 0)
    assert refused.key == "alice"
    error = refused.error("send_message")
    assert isinstance(error, RateLimited)
    assert error.retry_after == refused.retry_after
    assert "`send_message`: at most 2 in any 1 s" in str(error)


DEMANDS = st.lists(
    st.builds(
        Demand,
        st.sampled_from(["a", "b", "c"]),
        st.sampled_from([1, 3, 8]),
        st.sampled_from([5, 10]),
        st.integers(1, 4),
    ),
    max_size=4,
)


@given(st.lists(st.tuples(st.integers(0, 12 * MS), DEMANDS), max_size=60))
def test_all_or_none_and_never_more_than_n_in_any_window(calls):
    clock = Clock()
    limiter = MemoryLimiter(clock)
    admitted: dict[tuple, list[tuple[int, int]]] = {}

    def used(shape, now):
        return sum(w for at, w in admitted.get(shape, ()) if now - shape[2] * MS < at)

    def fits(demands, now):
        wanted: dict[tuple, int] = {}
        for demand in demands:
            wanted[demand[:3]] = wanted.get(demand[:3], 0) + demand.weight
        return all(used(shape, now) + weight <= shape[1] for shape, weight in wanted.items())

    for step, demands in calls:
        clock.now += step
        verdict = limiter.take(demands)
        assert verdict.allowed == fits(demands, clock.now)
        if verdict:
            for demand in demands:
                admitted.setdefault(demand[:3], []).append((clock.now, demand.weight))
        elif verdict.retry_after == math.inf:
            assert not fits(demands, clock.now + 10**12)
        else:
            assert fits(demands, clock.now + int(verdict.retry_after * 1e9))
        for shape in admitted:
            found = [u for u in limiter.usage(shape[0]) if (u.limit, u.window_ms) == shape[1:]]
            assert sum(u.used for u in found) == used(shape, clock.now)
            assert all(u.remaining == u.limit - u.used for u in found)
    for shape, taken in admitted.items():
        for start, _ in taken:
            assert sum(w for at, w in taken if start <= at < start + shape[2] * MS) <= shape[1]


@given(st.integers(1, 5), st.lists(st.tuples(st.integers(0, 9 * MS), st.integers(0, 9), st.booleans()), max_size=80))
def test_retry_after_is_true_even_when_keys_are_full(max_keys, calls):
    clock = Clock()
    limiter = MemoryLimiter(clock, max_keys=max_keys)
    for step, key, refund in calls:
        clock.now += step
        demands = [Demand(f"k{key}", 2, 3 + key), Demand(("all", "x"), 6, 20)][: 1 + key % 2]
        verdict = limiter.take(demands)
        assert len(limiter) <= max_keys
        if verdict and refund:
            assert limiter.refund(verdict.ticket)
        if not verdict and verdict.retry_after != math.inf:
            assert verdict.retry_after > 0
            now, clock.now = clock.now, clock.now + int(verdict.retry_after * 1e9)
            again = limiter.take(demands)
            assert again, (verdict, again)
            del now


def test_refused_attempts_do_not_extend_the_refusal(clock):
    limiter = MemoryLimiter(clock)
    demand = Demand("alice", 1, 1000)
    assert limiter.take([demand])
    for _ in range(999):
        clock.now += MS
        assert not limiter.take([demand])
    clock.now += MS
    assert limiter.take([demand])


def test_an_admitted_attempt_stays_counted_unless_it_is_refunded_once(clock):
    limiter = MemoryLimiter(clock)
    demands = [Demand("alice", 2, 1000), Demand("all", 10**6, 1000, weight=7)]
    first = limiter.take(demands)
    second = limiter.take(demands)
    assert not limiter.take(demands)
    assert limiter.refund(first.ticket) is True
    assert limiter.refund(first.ticket) is False
    assert limiter.usage("alice")[0].used == 1
    assert limiter.usage("all")[0].used == 7
    assert limiter.take(demands)
    assert not limiter.take(demands)
    clock.now += 2000 * MS
    assert limiter.take(demands)
    limiter.refund(second.ticket)  # too late: it counts no more, and takes nothing from the new one
    assert limiter.usage("alice")[0].used == 1


def test_one_refused_demand_takes_none(clock):
    limiter = MemoryLimiter(clock)
    assert limiter.take([Demand("small", 1, 1000)])
    verdict = limiter.take([Demand("big", 100, 1000), Demand("small", 1, 1000)])
    assert not verdict
    assert verdict.key == "small"
    assert limiter.usage("big") == ()


def test_two_demands_on_one_window_must_fit_together(clock):
    limiter = MemoryLimiter(clock)
    twice = [Demand("a", 3, 1000, 2), Demand("a", 3, 1000, 2)]
    verdict = limiter.take(twice)
    assert not verdict
    assert (verdict.refusal, verdict.retry_after) == ("weight", math.inf)
    assert limiter.take([Demand("a", 4, 1000, 2), Demand("a", 4, 1000, 2)]).remaining == 0
    assert "weighs more than the whole limit" in str(verdict.error("x"))


def test_a_limit_of_nothing_refuses_for_ever(clock):
    verdict = MemoryLimiter(clock).take([Demand("a", 0, 1000)])
    assert not verdict
    assert verdict.retry_after == math.inf


def test_no_demand_is_no_limit(clock):
    assert MemoryLimiter(clock).take([])


def test_a_live_key_is_never_evicted_and_a_new_one_is_refused_when_full(clock):
    limiter = MemoryLimiter(clock, max_keys=3)
    for key in "abc":
        assert limiter.take([Demand(key, 1, 1000)])
        clock.now += MS
    refused = limiter.take([Demand("d", 1, 1000)])
    assert not refused
    assert refused.refusal == "keys"
    assert "no room to count `x`" in str(refused.error("x"))
    assert all(limiter.usage(key)[0].used == 1 for key in "abc")
    assert not limiter.take([Demand("a", 1, 1000)])
    clock.now += int(refused.retry_after * 1e9)
    assert limiter.take([Demand("d", 1, 1000)])
    assert limiter.usage("b")[0].used == limiter.usage("c")[0].used == 1


def test_more_keys_than_fit_at_all(clock):
    verdict = MemoryLimiter(clock, max_keys=1).take([Demand("a", 1, 10), Demand("b", 1, 10)])
    assert (verdict.refusal, verdict.retry_after) == ("keys", math.inf)


def test_idle_keys_are_swept_by_the_way(clock):
    limiter = MemoryLimiter(clock)
    for number in range(1000):
        limiter.take([Demand(f"k{number}", 5, 10 + number % 7)])
    clock.now += 1000 * MS
    for _ in range(2000):
        limiter.take([Demand("busy", 10**6, 1)])
    assert len(limiter) == 1


def test_a_clock_that_steps_back_does_not_admit_more(clock):
    limiter = MemoryLimiter(clock)
    clock.now = 10**12
    for _ in range(3):
        assert limiter.take([Demand("a", 3, 1000)])
    clock.now = 0
    assert not limiter.take([Demand("a", 3, 1000)])
    clock.now = 10**12 + 999 * MS
    assert not limiter.take([Demand("a", 3, 1000)])


@pytest.mark.parametrize("weight", [0, -1, 1.0, True, "1", None])
@pytest.mark.parametrize("times", [1, 2])
def test_a_weight_that_means_nothing_is_refused_and_takes_nothing(clock, weight, times):
    limiter = MemoryLimiter(clock)
    with pytest.raises((ValueError, TypeError)):
        limiter.take([Demand("b", 5, 1000), *[Demand("a", 5, 1000, weight)] * times])
    assert limiter.usage("b") == ()


@pytest.mark.parametrize("max_keys", [0, -1, 1.5, True])
def test_max_keys_must_be_a_number_of_keys(max_keys):
    with pytest.raises(ValueError, match="max_keys"):
        MemoryLimiter(max_keys=max_keys)


@pytest.mark.parametrize("limit", [500, 5000])
def test_eight_threads_never_get_more_than_the_limit(limit):
    limiter = MemoryLimiter(time.monotonic_ns)
    demands = [Demand("shared", limit, 3_600_000), Demand(("other", "x"), 10**9, 3_600_000)]
    admitted = [0] * 8
    start = threading.Barrier(8)

    def attack(number):
        start.wait()
        for _ in range(limit // 4):
            admitted[number] += limiter.take(demands).allowed

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        threads = [threading.Thread(target=attack, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    assert sum(admitted) == limit
    assert limiter.usage("shared")[0].used == limit
    assert limiter.usage(("other", "x"))[0].used == limit
