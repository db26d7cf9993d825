"""How one cleanup handler is run: sync or async, on a loop or without one, and never past its deadline."""

from __future__ import annotations

import asyncio
import concurrent.futures
import inspect
import signal
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Any

from remit.errors import TimeLimit
from remit.model.spelling import shown

__all__ = ["Resource", "clean_here", "clean_on_loop", "shielded"]

_GRACE_SECONDS = 0.1  # for a handler that was cancelled at its deadline to come to its end
_POLL_SECONDS = 0.05  # how soon a hurried shutdown notices


@dataclass(slots=True)
class Resource:
    """What is held, and how it is given back. `loop` is the one that ran when it was registered."""

    id: str
    type: str
    cleanup: Callable[[], Any]
    timeout_ms: int
    loop: asyncio.AbstractEventLoop | None


async def clean_on_loop(resource: Resource, hurried: threading.Event) -> BaseException | None:
    """Run one handler from a loop; its error, or None. A cancellation does not reach it."""
    here = asyncio.get_running_loop()
    there = resource.loop
    work: asyncio.Future[BaseException | None]
    if there is not None and there is not here and there.is_running() and is_async(resource.cleanup):
        work = asyncio.wrap_future(asyncio.run_coroutine_threadsafe(_outcome(resource.cleanup), there))
    else:
        work = asyncio.ensure_future(_outcome(resource.cleanup))
    deadline = time.monotonic() + resource.timeout_ms / 1000
    while not work.done() and not hurried.is_set() and (left := deadline - time.monotonic()) > 0:
        await _wait(work, min(left, _POLL_SECONDS))
    if not work.done():
        work.cancel()
        await _wait(work, _GRACE_SECONDS)
        if not work.done():
            work.add_done_callback(_forget)
            return late(resource)
        # Where it still came to a good end in the grace, that is what counts.
        return None if not work.cancelled() and work.result() is None else late(resource)
    if work.cancelled():
        return asyncio.CancelledError(f"the cleanup of {shown(resource.id)} was cancelled")
    return work.result()


async def _wait(work: asyncio.Future[Any], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not work.done() and (left := deadline - time.monotonic()) > 0:
        try:
            await asyncio.wait({work}, timeout=left)
        except asyncio.CancelledError:
            # asyncio.run cancels every task when the main one has ended: a cleanup under way still comes to its end,
            # which its deadline bounds.
            continue


def is_async(cleanup: Callable[[], Any]) -> bool:
    if inspect.iscoroutinefunction(cleanup):
        return True
    inner = getattr(cleanup, "func", cleanup)  # functools.partial
    return inspect.iscoroutinefunction(inner) or inspect.iscoroutinefunction(type(inner).__call__)


async def called(cleanup: Callable[[], Any]) -> None:
    if is_async(cleanup):
        await cleanup()
        return
    answer = await _in_thread(cleanup)
    if inspect.isawaitable(answer):  # such as `lambda: connection.aclose()`
        await answer


async def _outcome(cleanup: Callable[[], Any]) -> BaseException | None:
    """What it raised, as a value: a SystemExit that a task raises would end the loop, not the task."""
    try:
        await called(cleanup)
    except asyncio.CancelledError:
        raise
    except BaseException as error:
        return error
    return None


def _in_thread(function: Callable[[], Any]) -> asyncio.Future[Any]:
    """The result of `function`, run in a daemon thread: an executor's would hold up the end of the interpreter."""
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[Any] = loop.create_future()

    def settle(value: Any, error: BaseException | None) -> None:
        try:
            loop.call_soon_threadsafe(_settle, answer, value, error)
        except RuntimeError:
            pass  # given up at its deadline, and the loop is gone

    _start(function, settle)
    return answer


def _start(function: Callable[[], Any], settle: Callable[[Any, BaseException | None], Any]) -> None:
    def run() -> None:
        value, error = None, None
        try:
            value = function()
        except BaseException as raised:
            error = raised
        settle(value, error)

    threading.Thread(target=run, name="remit-cleanup", daemon=True).start()


def _settle(
    answer: asyncio.Future[Any] | concurrent.futures.Future[Any], value: Any, error: BaseException | None
) -> None:
    if answer.done():
        return  # cancelled at its deadline
    if error is None:
        answer.set_result(value)
    elif isinstance(error, StopIteration):  # which no future can carry
        answer.set_exception(RuntimeError(f"raised {error!r}"))
    else:
        answer.set_exception(error)


def _forget(work: asyncio.Future[Any]) -> None:
    if not work.cancelled():
        work.exception()  # taken notice of: it was reported as late already


def late(resource: Resource) -> TimeLimit:
    return TimeLimit(
        f"the cleanup of {shown(resource.id)} did not end within {resource.timeout_ms} ms",
        limit="cleanup",
        value=resource.timeout_ms,
        stage="resources",
    )


async def shielded(work: Awaitable[Any]) -> None:
    """Wait for `work` to its end; a cancellation is held back until then, and raised."""
    task = asyncio.ensure_future(work)
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.wait({task})
        except asyncio.CancelledError as error:
            cancelled = error
    if not task.cancelled():
        task.result()
    if cancelled is not None:
        raise cancelled


def clean_here(resource: Resource) -> BaseException | None:
    """Run one handler in this thread, which has no running loop."""
    seconds = resource.timeout_ms / 1000
    there = resource.loop
    waiting: concurrent.futures.Future[Any]
    if is_async(resource.cleanup):
        if there is not None and there.is_running():
            waiting = asyncio.run_coroutine_threadsafe(_outcome(resource.cleanup), there)
            try:
                answer = waiting.result(seconds)
            except BaseException as error:
                if waiting.done():
                    return error
                waiting.cancel()
                return late(resource)
            return answer if isinstance(answer, BaseException) else None
        return _run_loop(resource.cleanup, resource, seconds)
    if threading.current_thread() is threading.main_thread():
        try:
            with _alarm(seconds):
                answer = resource.cleanup()
        except _Alarm:
            return late(resource)
        except BaseException as error:
            return error
    else:
        waiting = concurrent.futures.Future()
        _start(resource.cleanup, lambda value, error: _settle(waiting, value, error))
        try:
            answer = waiting.result(seconds)
        except BaseException as error:
            return error if waiting.done() else late(resource)
    if not inspect.isawaitable(answer):
        return None

    async def rest() -> None:
        await answer

    return _run_loop(rest, resource, seconds)


def _run_loop(cleanup: Callable[[], Any], resource: Resource, seconds: float) -> BaseException | None:
    async def bounded() -> BaseException | None:
        work = asyncio.ensure_future(_outcome(cleanup))
        await asyncio.wait({work}, timeout=seconds)
        if work.done():
            return work.result() if not work.cancelled() else asyncio.CancelledError()
        work.cancel()
        await asyncio.wait({work}, timeout=_GRACE_SECONDS)
        work.add_done_callback(_forget)
        return late(resource)

    # Not asyncio.run: it would wait without end for a handler that swallows its cancellation.
    loop = asyncio.new_event_loop()
    try:
        with _alarm(seconds + 2 * _GRACE_SECONDS):  # for a handler that blocks the loop
            return loop.run_until_complete(bounded())
    except _Alarm:
        return late(resource)
    except BaseException as error:
        return error
    finally:
        for task in asyncio.all_tasks(loop):
            task._log_destroy_pending = False  # type: ignore[attr-defined]  # noqa: SLF001  # it is reported as late
        loop.close()


class _Alarm(BaseException):
    """The deadline of a handler in this thread; not an Exception, so that a handler's own `except` lets it pass."""


@contextmanager
def _alarm(seconds: float) -> Iterator[bool]:
    """Raise `_Alarm` in the main thread after `seconds`; elsewhere Python has no way to interrupt, and it yields False.

    A timer (setitimer(2)) of the program's own is put back as it was, less the time that passed.
    """
    if threading.current_thread() is not threading.main_thread():
        yield False
        return

    def ring(_number: int, _frame: FrameType | None) -> None:
        raise _Alarm

    started = time.monotonic()
    earlier = signal.signal(signal.SIGALRM, ring)
    left, interval = signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield True
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, earlier if earlier is not None else signal.SIG_DFL)
        if left:
            signal.setitimer(signal.ITIMER_REAL, max(0.001, left - (time.monotonic() - started)), interval)
