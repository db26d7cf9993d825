from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from remit.jail.pool import Demand, Slots


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_demand_grows_with_what_lives_and_is_bounded() -> None:
    demand = Demand(Clock())
    first = demand.target
    assert demand.note(1, 0) is None
    assert demand.note(5, 1) == demand.target > first
    assert demand.note(5, 1) is None
    demand.note(10_000, 0)
    assert demand.target <= 16


def test_demand_lets_go_one_at_a_time_when_the_peak_is_past() -> None:
    clock = Clock()
    demand = Demand(clock)
    demand.note(6, 0)
    peak = demand.target
    assert demand.relax(0) is None
    clock.now += 60
    assert demand.relax(0) == peak - 1
    assert demand.relax(0) is None
    for _ in range(100):
        clock.now += 60
        demand.relax(0)
    assert demand.target == 1
    clock.now += 60
    assert demand.relax(0) is None


def call() -> Any:
    return SimpleNamespace()


def test_slots_are_given_in_the_order_of_asking() -> None:
    slots = Slots(0)
    assert slots.take("a", 1, 1)
    assert not slots.take("a", 1, 1)
    first, second = call(), call()
    slots.wait("a", 1, 1, first)
    slots.wait("a", 1, 1, second)
    assert slots.waiting("a") == 2
    assert slots.take("b", 1, 1)  # another owner does not stand behind
    assert slots.give_back("a", 1) == [first]
    assert slots.give_back("a", 1) == [second]
    assert slots.give_back("a", 1) == []
    assert slots.take("a", 1, 1)


def test_who_waits_can_leave() -> None:
    slots = Slots(0)
    slots.take("a", 1, 1)
    waiting = call()
    slots.wait("a", 1, 1, waiting)
    assert slots.forget(waiting)
    assert not slots.forget(waiting)
    assert slots.give_back("a", 1) == []


def test_one_call_may_be_larger_than_the_budget_but_not_beside_another() -> None:
    slots = Slots(100)
    assert slots.take("a", 0, 500)
    assert not slots.take("b", 0, 1)
    waiting = call()
    slots.wait("b", 0, 1, waiting)
    assert slots.give_back("a", 500) == [waiting]
    assert slots.drain() == []


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(1, 60)), max_size=60), st.data())
def test_budget_and_slots_hold_whatever_happens(asked: list[tuple[str, int]], data: st.DataObject) -> None:
    slots, live, sizes = Slots(100), [], {}
    for owner, size in asked:
        mine = call()
        sizes[id(mine)] = (owner, size, mine)
        if slots.take(owner, 3, size):
            live.append(mine)
        else:
            slots.wait(owner, 3, size, mine)
        if live and data.draw(st.booleans()):
            gone = live.pop(data.draw(st.integers(0, len(live) - 1)))
            live += slots.give_back(*sizes[id(gone)][:2])
        owners = [sizes[id(one)][0] for one in live]
        assert all(owners.count(owner) <= 3 for owner in "abc")
        assert sum(sizes[id(one)][1] for one in live) <= 100 or len(live) == 1
    while live:
        gone = live.pop()
        live += slots.give_back(*sizes[id(gone)][:2])
    assert slots.drain() == []  # nobody waits for ever
