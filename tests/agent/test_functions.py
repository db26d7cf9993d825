"""`remit.function` and `remit.sandboxed`: a function on its own, with the least that it needs."""

from __future__ import annotations

import asyncio
import functools
import inspect
import os
import threading

import pytest

import remit
from remit.errors import Denied, FunctionRaised, PolicyError, ValidationFailed
from remit.runtime import active_runtime
from tests import jailed
from tests.jailed import double, read
from tests.live import events

pytestmark = pytest.mark.anyio


async def triple(x: int) -> int:
    """Three times."""
    return 3 * x


def test_a_marked_function_keeps_its_face():
    marked = remit.function(double)
    assert marked.__wrapped__ is double
    assert marked.__name__ == "double"
    assert marked.__wrapped__(4) == 8
    assert "double" in repr(marked)
    assert inspect.signature(marked) == inspect.signature(double)


async def test_calling_it_goes_through_the_monitor():
    assert await remit.function(double)(4) == 8
    assert await remit.function(permissions=["basic_execution"], timeout="2s")(double)(x=4) == 8
    assert await remit.function(triple)(2) == 6
    with pytest.raises(ValidationFailed):
        await remit.function(double)("4")
    outcome = await remit.function(double).outcome(4)
    assert outcome.principal == "function tests.jailed.double"
    assert events(id=outcome.event_id)


async def test_it_runs_in_another_process_each_time():
    marked = remit.function(pid)
    assert os.getpid() not in {await marked() for _ in range(3)}


def pid() -> int:
    import os

    return os.getpid()


async def test_without_a_grant_it_gets_nothing():
    with pytest.raises(Denied):
        await remit.function(read)("/etc/passwd")
    with pytest.raises(PolicyError):
        await remit.function(permissions=["file_system:read:/etc"])(read)("/etc/passwd")


async def test_with_a_grant_it_gets_that():
    marked = remit.function(permissions=["basic_execution", "file_system:read:/etc/hostname"])(read)
    assert await marked("/etc/hostname") == read("/etc/hostname")


async def test_relative_paths_are_those_of_where_it_was_marked(tmp_path, monkeypatch):
    tmp_path.chmod(0o755)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "x").write_text("here", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    marked = remit.function(permissions=["basic_execution", "file_system:read:data"])(read)
    monkeypatch.chdir("/")
    assert await marked(str(tmp_path / "data" / "x")) == "here"


@pytest.mark.parametrize(
    "options",
    [
        {"permissions": ["basic_exec"]},
        {"permissions": ["network:"]},
        {"permissions": "basic_execution,network"},
        {"deny": ["nonsense:x"]},
        {"timeout": 5},
        {"timeout": 1.5},
        {"limits": {"memry": "1MiB"}},
        {"ship": "pigeon"},
        {"name": "no name"},
        {"description": "fine", "nmae": "x"},
    ],
)
def test_an_option_that_cannot_be_meant_is_an_error_at_once(options):
    with pytest.raises((PolicyError, TypeError)):
        remit.function(**options)(double)


def test_sync_for_sync_and_async_for_async():
    safe = remit.sandboxed(double)
    assert not inspect.iscoroutinefunction(safe)
    assert safe(4) == 8
    assert inspect.signature(safe) == inspect.signature(double)
    assert safe.__name__ == "double"
    waiting = remit.sandboxed(triple)
    assert inspect.iscoroutinefunction(waiting)
    assert waiting.__doc__ == "Three times."
    assert asyncio.run(waiting(2)) == 6


def test_lambdas_partials_and_callables_have_a_name_of_their_own():
    assert remit.sandboxed(lambda x: x + 1)(1) == 2
    assert remit.sandboxed(functools.partial(double, 4))() == 8
    assert remit.sandboxed(double, name="other")(1) == 2


def test_errors_come_out_as_they_are():
    def fail() -> None:
        raise ValueError("no")

    with pytest.raises(FunctionRaised, match="ValueError: no") as caught:
        remit.sandboxed(fail)()
    assert caught.value.event_id
    with pytest.raises(PermissionError):
        remit.sandboxed(read)("/etc/passwd")


def test_what_was_declared_is_not_lost_by_wrapping_again():
    slow = remit.function(timeout="200ms")(jailed.wait)
    with pytest.raises(TimeoutError):
        remit.sandboxed(slow)(60)
    with pytest.raises(TimeoutError):
        remit.sandboxed(slow, timeout="3s")(60)  # never wider


def test_one_function_may_be_wrapped_in_two_ways():
    narrow = remit.sandboxed(read)
    wide = remit.sandboxed(read, permissions=["basic_execution", "file_system:read:/etc/hostname"])
    for _ in range(2):
        assert wide("/etc/hostname")
        with pytest.raises(Denied):
            narrow("/etc/hostname")


def test_functions_of_one_name_in_two_places_are_two():
    def make(value):
        def same() -> int:
            return value

        return same

    assert [remit.sandboxed(make(value))() for value in (1, 2, 1)] == [1, 2, 1]


def test_it_may_be_called_from_many_threads():
    safe, values = remit.sandboxed(double), []

    def work(number):
        values.append(safe(number))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(values) == [0, 2, 4, 6, 8, 10, 12, 14]


async def test_a_method_may_not_be_but_a_static_one_may():
    class Service:
        @staticmethod
        @remit.function
        def fine(x: int) -> int:
            return x

        @remit.function
        def method(self, x: int) -> int:
            return x

    assert await Service.fine(1) == 1
    assert await Service().fine(1) == 1
    with pytest.raises(PolicyError, match="method"):
        Service().method(1)


async def test_its_limits_are_its_own():
    marked = remit.function(limits={"memory": "32MiB", "pool_size": 2})(jailed.take)
    with pytest.raises(MemoryError):
        await marked(64 << 20)
    assert marked._held().holder.slots == 2


def test_the_trail_knows_what_it_took_along():
    offset = 7
    safe = remit.sandboxed(lambda x: x + offset, name="shifted")
    assert safe(1) == 8
    (event,) = [event for event in events(type="registered") if event.action == "shifted"]
    assert event.context["how"] == "value"
    assert event.context["takes"] == {"offset": "builtins.int"}
    assert active_runtime().audit is not None
