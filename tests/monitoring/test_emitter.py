from __future__ import annotations

import asyncio
import logging
import threading

import pytest

from remit.errors import PolicyError
from remit.monitoring import Emitter


@pytest.fixture
def emitter():
    made = Emitter()
    yield made
    made.close()


def test_listeners_get_their_events_in_order(emitter):
    violations, everything = [], []
    emitter.on("violation", violations.append)
    emitter.on("*", everything.append)
    for number in range(50):
        emitter.emit("violation", number)
        emitter.emit("other", -number)
    assert emitter.flush()
    assert violations == list(range(50))
    assert [number for number in everything if number > 0] == list(range(1, 50))
    assert len(everything) == 100


def test_on_is_a_decorator_that_gives_the_function_back(emitter):
    got = []

    @emitter.on("x")
    def listener(event):
        got.append(event)

    @emitter.on("x", once=True)
    def first(event):
        got.append(("once", event))

    assert listener.__name__ == "listener"
    assert emitter.on("y", listener) is listener
    emitter.emit("x", 1)
    emitter.emit("x", 2)
    assert emitter.flush()
    assert sorted(got, key=str) == [("once", 1), 1, 2]


def test_off(emitter):
    got = []
    emitter.on("x", got.append)
    emitter.on("x", lambda event: got.append(-event))
    assert emitter.off("x", got.append) == 1
    assert emitter.off("x", got.append) == 0
    emitter.emit("x", 5)
    assert emitter.flush()
    assert got == [-5]
    assert emitter.off("x") == 1
    emitter.emit("x", 6)
    assert emitter.flush()
    assert got == [-5]


def test_one_failing_listener_stops_no_other(emitter, caplog):
    got = []

    @emitter.on("x")
    def broken(event):
        raise ValueError("mine alone")

    @emitter.on("x")
    def exits(event):
        raise SystemExit

    @emitter.on("x")
    async def broken_too(event):
        raise ValueError("mine alone")

    emitter.on("x", got.append)
    with caplog.at_level(logging.ERROR, logger="remit.monitoring"):
        for number in range(3):
            emitter.emit("x", number)
        assert emitter.flush()
    assert got == [0, 1, 2]
    assert [stats.errors for stats in emitter.stats()] == [3, 3, 3, 0]
    assert "mine alone" in caplog.text


def test_a_slow_listener_costs_nobody_else_and_its_queue_is_bounded():
    emitter = Emitter(queue_size=5)
    release, entered, got = threading.Event(), threading.Event(), []

    @emitter.on("x")
    def slow(event):
        entered.set()
        release.wait(30)

    emitter.on("x", got.append)
    emitter.emit("x", 0)
    assert entered.wait(30)
    for number in range(1, 101):
        emitter.emit("x", number)
        while len(got) < number + 1:  # the quick one keeps up though the other stands still
            threading.Event().wait(0.001)
    slow_stats, quick_stats = emitter.stats()
    assert (slow_stats.delivered, slow_stats.waiting, slow_stats.dropped) == (1, 5, 95)
    assert (quick_stats.delivered, quick_stats.dropped) == (101, 0)
    assert emitter.flush(0.01) is False
    assert emitter.close(0.01) is False
    release.set()


def test_async_listeners_without_a_loop_run_on_the_emitters_own():
    emitter, got = Emitter(), []

    @emitter.on("x")
    async def listener(event):
        await asyncio.sleep(0)
        got.append((event, threading.current_thread().name))

    emitter.emit("x", 1)
    assert emitter.flush()
    assert got == [(1, "remit-listeners")]
    assert emitter.close()
    assert not [thread for thread in threading.enumerate() if thread.name == "remit-listeners"]


@pytest.mark.anyio
async def test_async_listeners_run_on_the_loop_on_which_they_were_registered():
    emitter, got = Emitter(), []

    async def listener(event):
        got.append((event, asyncio.get_running_loop()))

    emitter.on("x", listener)
    loop = asyncio.get_running_loop()
    emitter.emit("x", 1)
    thread = threading.Thread(target=emitter.emit, args=("x", 2))
    thread.start()
    thread.join()
    assert got == []  # never inside emit
    assert await emitter.drain()
    assert got == [(1, loop), (2, loop)]
    emitter.close()


@pytest.mark.anyio
async def test_once_is_waited_for_and_runs_once():
    emitter, got = Emitter(), []

    @emitter.on("x", once=True)
    async def listener(event):
        await asyncio.sleep(0)
        got.append(event)

    emitter.emit("x", 1)
    emitter.emit("x", 2)
    assert await emitter.drain()
    assert got == [1]
    assert emitter.stats() == ()
    emitter.close()


def test_a_loop_that_is_gone_drops_and_counts():
    emitter, got = Emitter(), []

    async def register():
        async def listener(event):
            got.append(event)

        emitter.on("x", listener)
        emitter.emit("x", 1)
        await emitter.drain()

    asyncio.run(register())
    for number in range(10):
        emitter.emit("x", number)
    assert emitter.flush(1)
    assert got == [1]
    assert emitter.stats()[0].dropped == 10
    emitter.close()


def test_callables_that_return_awaitables_are_awaited(emitter):
    got = []

    async def inner(event):
        got.append(event)

    class Listener:
        async def __call__(self, event) -> None:
            got.append(event)

    emitter.on("x", lambda event: inner(event))  # noqa: PLW0108  # a sync function that returns an awaitable
    emitter.on("x", Listener())
    emitter.emit("x", 1)
    assert emitter.flush()
    assert got == [1, 1]


def test_many_threads_lose_nothing_and_once_is_once():
    emitter, got, once = Emitter(queue_size=100_000), [], []
    emitter.on("x", got.append)
    emitter.on("x", once.append, once=True)
    threads = [threading.Thread(target=lambda: [emitter.emit("x", number) for number in range(1000)]) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert emitter.close(30)
    assert len(got) == 8000
    assert len(once) == 1


def test_names_can_be_known_beforehand():
    emitter = Emitter(names=["violation", "limit_exceeded"])
    with pytest.raises(PolicyError, match="did you mean `violation`"):
        emitter.on("violatoin", print)
    emitter.on("*", print)
    emitter.on("violation", print)
    with pytest.raises(PolicyError, match="cannot be called"):
        emitter.on("violation", 5)
    emitter.close()


def test_a_closed_emitter_takes_no_listener_and_ignores_events(emitter):
    got = []
    emitter.on("x", got.append)
    assert emitter.close()
    assert emitter.close()
    emitter.emit("x", 1)
    assert got == []
    with pytest.raises(PolicyError, match="closed"):
        emitter.on("x", got.append)


def test_a_listener_may_emit_and_remove_itself(emitter):
    got = []

    @emitter.on("x")
    def listener(event):
        got.append(event)
        emitter.off("x", listener)
        emitter.emit("y", event + 1)

    emitter.on("y", got.append)
    emitter.emit("x", 1)
    while len(got) < 2:
        threading.Event().wait(0.001)
    assert got == [1, 2]


@pytest.mark.parametrize("size", [0, -1, True, 1.5])
def test_the_queue_size_is_a_number(size):
    with pytest.raises(ValueError, match="queue_size"):
        Emitter(queue_size=size)
