from __future__ import annotations

import asyncio
import os
import signal
import threading

import pytest

from remit.errors import LimitExceeded, PolicyError, RemitError, TimeLimit
from remit.monitoring import Emitter
from remit.resources import ResourceManager

pytestmark = pytest.mark.anyio


@pytest.fixture
def emitter():
    made = Emitter()
    yield made
    made.close()


@pytest.fixture
def resources(emitter):
    return ResourceManager(emitter)


async def test_last_in_first_out_sync_and_async(resources):
    order = []

    async def asynchronous():
        await asyncio.sleep(0)
        order.append("b")

    resources.register_resource(id="a", type="file", cleanup=lambda: order.append("a"))
    resources.register_resource(id="b", type="socket", cleanup=asynchronous, timeout=1000)
    resources.register_resource("c", "file", lambda: order.append("c"), "2s")
    assert resources.usage().held == 3
    assert resources.usage().by_type == {"file": 2, "socket": 1}
    report = await resources.shutdown()
    assert order == ["c", "b", "a"]
    assert report.ok
    assert report.released == ("c", "b", "a")
    assert report.errors is None
    assert resources.usage().held == 0


async def test_shutdown_is_done_once_whoever_asks(resources):
    order = []

    async def slow():
        await asyncio.sleep(0.01)
        order.append(1)

    resources.register_resource("a", "x", slow)
    reports = await asyncio.gather(*(resources.shutdown() for _ in range(5)))
    assert order == [1]
    assert all(report is reports[0] for report in reports)
    assert await resources.shutdown() is reports[0]
    assert await asyncio.to_thread(resources.close) is reports[0]
    with pytest.raises(RemitError, match="shut down"):
        resources.register_resource("b", "x", slow)


async def test_no_error_hides_another(resources):
    done = []

    async def bad():
        raise KeyError("async")

    def worse():
        raise SystemExit("sync")

    def stops():
        raise StopIteration

    resources.register_resource("first", "x", lambda: done.append(1))
    for name, cleanup in (("bad", bad), ("worse", worse), ("zero", lambda: 1 / 0), ("stops", stops)):
        resources.register_resource(name, "x", cleanup)
    report = await resources.shutdown()
    assert done == [1]
    assert report.released == ("first",)
    assert [failure.id for failure in report.failures] == ["stops", "zero", "worse", "bad"]
    assert [type(error) for error in report.errors.exceptions] == [
        RuntimeError,
        ZeroDivisionError,
        SystemExit,
        KeyError,
    ]


async def test_each_handler_has_its_deadline(resources):
    release, done = threading.Event(), []

    async def for_ever():
        await asyncio.Event().wait()

    async def stubborn():
        while not release.is_set():
            try:
                await asyncio.sleep(0.02)
            except asyncio.CancelledError:
                continue

    resources.register_resource("good", "x", lambda: done.append(1))
    resources.register_resource("for ever", "x", for_ever, "20ms")
    resources.register_resource("stubborn", "x", stubborn, "20ms")
    resources.register_resource("blocked", "x", lambda: release.wait(30), "20ms")
    report = await resources.shutdown()
    release.set()
    assert done == [1]
    assert [failure.id for failure in report.failures] == ["blocked", "stubborn", "for ever"]
    for failure in report.failures:
        assert isinstance(failure.error, TimeLimit)
        assert failure.error.value == 20
    await asyncio.sleep(0.05)


async def test_a_cancelled_caller_waits_for_the_end_and_is_cancelled_then(resources):
    order, begun = [], asyncio.Event()

    async def slow(name):
        begun.set()
        await asyncio.sleep(0.03)
        order.append(name)

    resources.register_resource("a", "x", lambda: slow("a"))
    resources.register_resource("b", "x", lambda: slow("b"))
    task = asyncio.create_task(resources.shutdown())
    await begun.wait()
    for _ in range(3):
        task.cancel()
        await asyncio.sleep(0)
    with pytest.raises(asyncio.CancelledError):
        await task
    assert order == ["b", "a"]


async def test_async_with_cleans_up_when_its_task_is_cancelled(emitter):
    order = []

    async def cleanup():
        await asyncio.sleep(0.01)
        order.append("cleaned")

    async def body():
        async with ResourceManager(emitter) as resources:
            resources.register_resource("a", "x", cleanup)
            await asyncio.Event().wait()

    task = asyncio.create_task(body())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert order == ["cleaned"]


async def test_async_with_hides_neither_the_bodys_error_nor_the_cleanups(emitter):
    with pytest.raises(ValueError, match="body") as caught:
        async with ResourceManager(emitter) as resources:
            resources.register_resource("a", "x", lambda: 1 / 0)
            raise ValueError("body")
    assert "cleanup of `a` failed as well" in caught.value.__notes__[0]
    with pytest.raises(BaseExceptionGroup) as group:
        async with ResourceManager(emitter) as resources:
            resources.register_resource("a", "x", lambda: 1 / 0)
    assert isinstance(group.value.exceptions[0], ZeroDivisionError)


async def test_release(resources):
    done = []
    resources.register_resource("a", "x", lambda: done.append("a"))
    resources.register_resource("b", "x", lambda: 1 / 0)
    assert (await resources.release("a")).released == ("a",)
    assert not (await resources.release("b")).ok
    for name in ("a", "b", "never"):
        with pytest.raises(PolicyError, match="no resource"):
            await resources.release(name)
    assert done == ["a"]
    assert (await resources.shutdown()).released == ()
    assert resources.usage().by_type == {}


async def test_limits_and_their_event(emitter):
    resources = ResourceManager(emitter, limits={"connection": 2})
    got = []

    @resources.on("limit_exceeded")
    def listener(event):
        got.append(event)

    for name in "ab":
        resources.register_resource(name, "connection", lambda: None)
    with pytest.raises(LimitExceeded) as caught:
        resources.register_resource("c", "connection", lambda: None)
    assert (caught.value.value, caught.value.used, caught.value.limit) == (2, 2, "resources:connection")
    resources.register_resource("d", "file", lambda: None)
    await resources.release("a")
    resources.register_resource("c", "connection", lambda: None)
    assert await emitter.drain()
    assert got == [caught.value]
    assert resources.off("limit_exceeded", listener) == 1
    assert resources.usage().limits == {"connection": 2}


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"id": ""}, "`id`"),
        ({"id": 5}, "`id`"),
        ({"type": ""}, "`type`"),
        ({"cleanup": 5}, "cannot be called"),
        ({"timeout": 5}, "5 milliseconds"),
        ({"timeout": 1.5}, "float"),
        ({"timeout": "unlimited"}, "deadline"),
        ({"timeout": "soon"}, "soon"),
        ({"id": "taken"}, "held already"),
    ],
)
async def test_what_means_nothing_is_refused(resources, arguments, match):
    resources.register_resource("taken", "x", lambda: None)
    with pytest.raises(PolicyError, match=match):
        resources.register_resource(**{"id": "a", "type": "x", "cleanup": lambda: None, **arguments})
    assert resources.usage().held == 1


async def test_hurry_cuts_the_rest_short(resources):
    begun, order = asyncio.Event(), []

    async def for_ever():
        begun.set()
        await asyncio.Event().wait()

    resources.register_resource("never begun", "x", lambda: order.append(1))
    resources.register_resource("slow", "x", for_ever, "1h")
    task = asyncio.create_task(resources.shutdown())
    await begun.wait()
    resources.hurry()
    report = await task
    assert [failure.id for failure in report.failures] == ["slow"]
    assert report.skipped == ("never begun",)
    assert order == []
    assert not report.ok


async def test_close_refuses_to_block_a_running_loop(resources):
    with pytest.raises(RemitError, match="await shutdown"):
        resources.close()


def test_close_without_a_loop(emitter):
    resources, order = ResourceManager(emitter), []

    async def asynchronous():
        await asyncio.sleep(0)
        order.append("async")

    async def for_ever():
        await asyncio.Event().wait()

    resources.register_resource("a", "x", lambda: order.append("sync"))
    resources.register_resource("b", "x", asynchronous)
    resources.register_resource("c", "x", lambda: asynchronous())  # noqa: PLW0108  # as users write it
    resources.register_resource("d", "x", for_ever, "20ms")
    resources.register_resource("e", "x", lambda: threading.Event().wait(30), "20ms")
    resources.register_resource("f", "x", lambda: 1 / 0)
    report = resources.close()
    assert order == ["async", "async", "sync"]
    assert [failure.id for failure in report.failures] == ["f", "e", "d"]
    assert resources.close() is report


def test_close_outside_the_main_thread_keeps_deadlines_too(emitter):
    resources, release = ResourceManager(emitter), threading.Event()
    resources.register_resource("a", "x", lambda: None)
    resources.register_resource("b", "x", lambda: release.wait(30), "20ms")
    reports = []
    thread = threading.Thread(target=lambda: reports.append(resources.close()))
    thread.start()
    thread.join(20)
    release.set()
    assert reports[0].released == ("a",)
    assert isinstance(reports[0].failures[0].error, TimeLimit)


def test_a_timer_of_the_programs_own_goes_on(emitter):
    resources = ResourceManager(emitter)
    resources.register_resource("a", "x", lambda: None)
    earlier_handler = signal.getsignal(signal.SIGALRM)
    earlier = signal.setitimer(signal.ITIMER_REAL, 1000, 7)
    try:
        resources.close()
        left, interval = signal.getitimer(signal.ITIMER_REAL)
        assert 900 < left <= 1000
        assert interval == 7
        assert signal.getsignal(signal.SIGALRM) == earlier_handler
    finally:
        signal.setitimer(signal.ITIMER_REAL, *earlier)


def test_an_async_handler_runs_on_its_own_loop_while_that_runs(emitter):
    resources, got = ResourceManager(emitter), []
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()

    async def cleanup():
        got.append(asyncio.get_running_loop())

    async def register():
        resources.register_resource("a", "x", cleanup)
        resources.register_resource("b", "x", cleanup)

    asyncio.run_coroutine_threadsafe(register(), loop).result(10)

    async def elsewhere():
        await resources.release("b")

    asyncio.run(elsewhere())
    resources.close()
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()
    assert got == [loop, loop]


def test_a_loop_that_ends_in_the_middle_leaves_the_rest_to_close(emitter):
    resources, order = ResourceManager(emitter), []

    async def slow():
        await asyncio.sleep(0.05)
        order.append("slow")

    async def main():
        resources.register_resource("a", "x", lambda: order.append("a"))
        resources.register_resource("b", "x", slow)
        task = asyncio.create_task(resources.shutdown())  # and nobody waits for it
        await asyncio.sleep(0)
        return task

    asyncio.run(main())
    # asyncio.run cancels every task at its end, that of the handler too: it is told so, and the rest has its turn.
    report = resources.close()
    assert report.released == ("a",)
    assert [type(failure.error) for failure in report.failures] == [asyncio.CancelledError]
    assert order == ["a"]


def test_a_forked_child_holds_nothing_of_its_parents(emitter):
    resources, done = ResourceManager(emitter), []
    resources.register_resource("a", "x", lambda: done.append(1))
    child = os.fork()
    if child == 0:
        code = 1
        try:
            held = resources.usage().held
            resources.close()
            code = 0 if held == 0 and not done else 2
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert resources.usage().held == 1
    resources.close()
    assert done == [1]


def test_limits_are_numbers(emitter):
    for bad in (-1, 1.5, True, "1"):
        with pytest.raises(PolicyError):
            ResourceManager(emitter, limits={"x": bad})
