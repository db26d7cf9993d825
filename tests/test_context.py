"""Who acts now, through async code and threads, and no further than it was said."""

from __future__ import annotations

import asyncio
import contextvars
import threading

import pytest

import remit
from remit.context import acting_as, current_context, current_runtime, in_runtime
from remit.model.grants import GrantSet
from remit.model.principal import Principal, SecurityContext
from remit.runtime import Runtime, active_runtime, run_sync
from tests.live import config, end_default_runtime

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module", autouse=True)
def default_runtime():
    yield
    end_default_runtime()


def context(name="a", *grants):
    return SecurityContext(
        chain=(Principal(name),), grants=GrantSet.of(["basic_execution", *grants]), timestamp=1_700_000_000_000
    )


def test_the_deployers_own_code_acts_for_nobody():
    assert current_context() is None
    assert remit.current_context() is None


def test_it_is_put_back_whatever_happens():
    outer, inner = context("outer"), context("inner")
    with acting_as(outer):
        with pytest.raises(ZeroDivisionError), acting_as(inner):
            assert current_context() is inner
            raise ZeroDivisionError
        assert current_context() is outer
    assert current_context() is None


async def test_tasks_inherit_it_and_do_not_share_changes():
    with acting_as(context("parent")):

        async def child():
            inherited = current_context().principal
            with acting_as(context("child")):
                await asyncio.sleep(0)
                return inherited, current_context().principal

        first = asyncio.create_task(child())
        await asyncio.sleep(0)
        assert current_context().principal == "parent"
        assert await first == ("parent", "child")


async def test_threads_of_asyncio_inherit_it():
    with acting_as(context("parent")):
        assert (await asyncio.to_thread(current_context)).principal == "parent"


def test_a_bare_thread_begins_without():
    seen = []
    with acting_as(context("parent")):
        thread = threading.Thread(target=contextvars.Context().run, args=(lambda: seen.append(current_context()),))
        thread.start()
        thread.join()
    assert seen == [None]


def test_code_that_is_not_asynchronous_keeps_it():
    async def principal():
        return current_context().principal

    with acting_as(context("parent")):
        assert run_sync(principal()) == "parent"


async def test_the_innermost_runtime_is_the_current_one(tmp_path):
    assert current_runtime() is None
    first = Runtime(config(tmp_path / "one"), handle_signals=False)
    second = Runtime(config(tmp_path / "two"), handle_signals=False)
    async with first:
        assert active_runtime() is first
        async with second:
            assert active_runtime() is second
        assert active_runtime() is first
    assert current_runtime() is None
    assert active_runtime() not in (first, second)


def test_in_runtime_is_put_back(tmp_path):
    runtime = Runtime(config(tmp_path), handle_signals=False)
    with pytest.raises(ZeroDivisionError), in_runtime(runtime):
        assert current_runtime() is runtime
        raise ZeroDivisionError
    assert current_runtime() is None
    runtime.close()
