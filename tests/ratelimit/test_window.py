"""Never more than N in any window W: against a naive oracle, with arrivals as awkward as hypothesis can make them."""

from __future__ import annotations

from array import array

import pytest
from hypothesis import given
from hypothesis import strategies as st

from remit.ratelimit.window import EXACT_LIMIT, MAX_WINDOW_MS, CountedRule, ExactRule, rule_for

MS = 1_000_000

# Steps of time around the edges of a window of 10 ms, in nanoseconds; and weights.
STEPS = st.one_of(st.sampled_from([0, 1, 5 * MS, 10 * MS - 1, 10 * MS, 10 * MS + 1]), st.integers(0, 25 * MS))
ARRIVALS = st.lists(st.tuples(STEPS, st.integers(1, 9)), max_size=150)


class Oracle:
    """Every admitted attempt, kept for ever and counted each time."""

    def __init__(self, limit, window_ns) -> None:
        self.limit, self.window, self.admitted = limit, window_ns, []

    def used(self, now):
        return sum(weight for at, weight in self.admitted if now - self.window < at)

    def may(self, now, weight):
        return self.used(now) + weight <= self.limit

    def worst(self):
        return max(
            (sum(w for at, w in self.admitted if start <= at < start + self.window) for start, _ in self.admitted),
            default=0,
        )


@given(st.integers(1, 40), ARRIVALS)
def test_the_exact_form_decides_as_the_oracle_does(limit, arrivals):
    rule = ExactRule(limit, 10)
    log, oracle, now = rule.new(), Oracle(limit, 10 * MS), 0
    for step, weight in arrivals:
        now += step
        if weight > limit:
            continue
        wait = rule.wait(log, now, weight)
        assert (wait == 0) == oracle.may(now, weight)
        if wait:
            assert oracle.may(now + wait, weight)
            assert not oracle.may(now + wait - 1, weight)
        else:
            rule.put(log, now, weight)
            oracle.admitted.append((now, weight))
        assert rule.used(log, now) == oracle.used(now)
        assert len(log) <= limit + 1
    assert oracle.worst() <= limit


@given(st.integers(1, 40), ARRIVALS)
def test_the_counted_form_never_admits_more_and_frees_at_most_a_64th_late(limit, arrivals):
    rule = CountedRule(limit, 10)
    log, oracle, now = rule.new(), Oracle(limit, 10 * MS), 0
    late = -(-10 * MS // 64)
    for step, weight in arrivals:
        now += step
        if weight > limit:
            continue
        wait = rule.wait(log, now, weight)
        if wait == 0:
            assert oracle.may(now, weight)
            rule.put(log, now, weight)
            oracle.admitted.append((now, weight))
        else:
            assert not oracle.may(now - late, weight) or oracle.used(now - late) != oracle.used(now)
            again = array("q", log)
            assert rule.wait(again, now + wait, weight) == 0
            assert oracle.may(now + wait, weight)
        assert rule.used(log, now) >= oracle.used(now)
        # What is older than W and a sub-window is free again.
        assert rule.used(log, now) <= sum(w for at, w in oracle.admitted if now - 10 * MS - late < at)
    assert oracle.worst() <= limit


@given(st.sampled_from([ExactRule, CountedRule]), st.integers(1, 30), ARRIVALS, st.data())
def test_a_refund_gives_back_what_was_taken_and_no_more(form, limit, arrivals, data):
    rule = form(limit, 10)
    log, now = rule.new(), 0
    for step, weight in arrivals:
        now += step
        if weight > limit or rule.wait(log, now, weight):
            continue
        before = rule.used(log, now)
        rule.put(log, now, weight)
        if data.draw(st.booleans()):
            assert rule.refund(log, now, weight) == weight
            assert rule.used(log, now) == before
    assert rule.refund(log, now + 1000 * MS, 5) == 0


@given(st.integers(1, 30), ARRIVALS)
def test_a_log_that_is_idle_is_as_good_as_none(limit, arrivals):
    for form in (ExactRule, CountedRule):
        rule = form(limit, 10)
        log, now = rule.new(), 0
        for step, weight in arrivals:
            now += step
            if weight <= limit and not rule.wait(log, now, weight):
                rule.put(log, now, weight)
        idle = max(rule.idle_at(log), now)
        assert rule.used(log, idle) == 0
        assert rule.wait(log, idle, limit) == 0


def test_memory_of_a_key_is_bounded():
    exact, counted = ExactRule(EXACT_LIMIT, 1000), CountedRule(10**12, 1000)
    log, other = exact.new(), counted.new()
    assert len(log) < 16
    for now in range(3 * EXACT_LIMIT):
        if not exact.wait(log, now, 1):
            exact.put(log, now, 1)
        if not counted.wait(other, now, 10**6):
            counted.put(other, now, 10**6)
    assert len(log) == EXACT_LIMIT + 1
    assert len(other) == len(counted.new())


@pytest.mark.parametrize(
    ("limit", "window"),
    [(-1, 10), (True, 10), (1.0, 10), ("1", 10), (1, 0), (1, -5), (1, 1.5), (1, MAX_WINDOW_MS + 1), (1 << 60, 10)],
)
def test_numbers_that_mean_nothing_are_refused(limit, window):
    with pytest.raises(ValueError, match="must be an integer"):
        rule_for(limit, window)


def test_the_form_follows_the_size():
    assert isinstance(rule_for(EXACT_LIMIT, 1), ExactRule)
    assert isinstance(rule_for(EXACT_LIMIT + 1, MAX_WINDOW_MS), CountedRule)
