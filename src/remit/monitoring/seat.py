"""Where one listener sits: its bounded queue, its counts, and the thread or loop on which it is served."""

from __future__ import annotations

import abc
import asyncio
import inspect
import logging
import threading
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from remit.model.spelling import shown

__all__ = ["Listener", "ListenerStats", "LoopSeat", "OwnLoop", "Seat", "ThreadSeat"]

Listener = Callable[[Any], Any]
"""Called with the event; what it returns is ignored, unless it can be awaited: then it is."""

_LOG = logging.getLogger("remit.monitoring")
_THREAD_IDLE_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class ListenerStats:
    """How one listener is doing: events handed over, dropped because its queue was full, and calls that raised."""

    name: str
    listener: str
    delivered: int
    dropped: int
    errors: int
    waiting: int


class Seat(abc.ABC):
    """One listener with its queue."""

    def __init__(self, name: str, listener: Listener, once: bool, size: int) -> None:
        self.name = name
        self.listener = listener
        self.once = once
        self._size = size
        self._waiting: deque[Any] = deque()
        self._busy = False  # somebody is serving, or is on the way
        self._stopped = False
        self._reserved = False
        self._idle = threading.Condition(threading.Lock())
        self._delivered = 0
        self._dropped = 0
        self._errors = 0

    def reserve(self) -> None:
        """An event is on its way: from now on this listener is not quiet."""
        with self._idle:
            self._reserved = True

    def offer(self, event: Any) -> None:
        """Put the event into the queue, or count it as dropped."""
        with self._idle:
            self._reserved = False
            if self._stopped:
                return
            if self._is_gone():
                self._dropped += 1 + len(self._waiting)
                self._waiting.clear()
                self._busy = False
                self._idle.notify_all()
                return
            if len(self._waiting) >= self._size:
                self._dropped += 1
                return
            self._waiting.append(event)
            if self._busy:
                self._idle.notify_all()
                return
            self._busy = True
        try:
            self._start()
        except RuntimeError:  # the loop is closed, or no thread can start at the end of the interpreter
            with self._idle:
                self._dropped += len(self._waiting)
                self._waiting.clear()
                self._busy = False
                self._idle.notify_all()

    def stop(self) -> None:
        """Take no more, and forget what waits."""
        with self._idle:
            self._stopped = True
            self._dropped += len(self._waiting)
            self._waiting.clear()
            self._idle.notify_all()

    def wait(self, seconds: float) -> bool:
        """Wait until nothing waits and nothing runs; whether that came within `seconds`."""
        with self._idle:
            return self._idle.wait_for(self._is_quiet, seconds)

    def stats(self) -> ListenerStats:
        """The counts, at one moment."""
        with self._idle:
            who = str(getattr(self.listener, "__qualname__", type(self.listener).__qualname__))
            return ListenerStats(self.name, who, self._delivered, self._dropped, self._errors, len(self._waiting))

    def _is_quiet(self) -> bool:
        return not self._waiting and not self._reserved and not self._serving()

    def _is_gone(self) -> bool:
        return False

    def _serving(self) -> bool:
        return self._busy

    @abc.abstractmethod
    def _start(self) -> None:
        """See to it that the queue is served; RuntimeError where that cannot be."""

    def _failed(self, error: BaseException) -> None:
        with self._idle:
            self._errors += 1
        _LOG.error("a listener for %s raised", shown(self.name), exc_info=error)


class ThreadSeat(Seat):
    """A sync listener: a daemon thread that ends when nothing has come for a while."""

    def __init__(self, name: str, listener: Listener, once: bool, size: int, loop: OwnLoop) -> None:
        super().__init__(name, listener, once, size)
        self._calling = False
        self._loop = loop

    def _serving(self) -> bool:
        return self._calling

    def _start(self) -> None:
        threading.Thread(target=self._serve, name=f"remit-on-{self.name}", daemon=True).start()

    def _serve(self) -> None:
        while True:
            with self._idle:
                self._calling = False
                if not self._waiting:
                    self._idle.notify_all()
                    if self.once or self._stopped or not self._idle.wait_for(self._is_wanted, _THREAD_IDLE_SECONDS):
                        self._busy = False
                        return
                if self._stopped:
                    self._busy = False
                    return
                event = self._waiting.popleft()
                self._calling = True
                self._delivered += 1
            try:
                answer = self.listener(event)
                if inspect.isawaitable(answer):  # such as a lambda around a coroutine function
                    asyncio.run_coroutine_threadsafe(_awaited(answer), self._loop.running()).result()
            except BaseException as error:
                self._failed(error)

    def _is_wanted(self) -> bool:
        return bool(self._waiting) or self._stopped


class LoopSeat(Seat):
    """An async listener: a task on its loop for as long as something waits."""

    def __init__(
        self, name: str, listener: Listener, once: bool, size: int, loop: asyncio.AbstractEventLoop | OwnLoop
    ) -> None:
        super().__init__(name, listener, once, size)
        self._loop = loop
        self._task: asyncio.Task[None] | None = None

    def _is_gone(self) -> bool:
        return not isinstance(self._loop, OwnLoop) and self._loop.is_closed()

    def _start(self) -> None:
        loop = self._loop.running() if isinstance(self._loop, OwnLoop) else self._loop
        try:
            here = asyncio.get_running_loop() is loop
        except RuntimeError:
            here = False
        if here:  # no need to wake it
            loop.call_soon(self._serve_soon, loop)
        else:
            loop.call_soon_threadsafe(self._serve_soon, loop)

    def _serve_soon(self, loop: asyncio.AbstractEventLoop) -> None:
        self._task = loop.create_task(self._serve(), name=f"remit-on-{self.name}")

    async def _serve(self) -> None:
        try:
            while True:
                with self._idle:
                    if not self._waiting:
                        return
                    event = self._waiting.popleft()
                    self._delivered += 1
                try:
                    await self.listener(event)
                except asyncio.CancelledError:
                    task = asyncio.current_task()
                    if task is None or task.cancelling():
                        raise  # the loop is ending, not the listener's own affair
                    self._failed(RuntimeError("the listener cancelled itself"))
                except Exception as error:
                    self._failed(error)
        finally:
            with self._idle:
                self._busy = False
                self._idle.notify_all()
                again = bool(self._waiting) and not self._stopped
                self._busy = again
            if again:
                self._restart()

    def _restart(self) -> None:
        # Only after a cancellation: what still waits gets one more try while the loop lives.
        try:
            self._start()
        except RuntimeError:
            self.stop()
            with self._idle:
                self._busy = False


async def _awaited(answer: Awaitable[Any]) -> Any:
    return await answer


class OwnLoop:
    """A loop in a daemon thread, made when it is first needed."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._closed = False

    def running(self) -> asyncio.AbstractEventLoop:
        """The loop, running; RuntimeError after `close`."""
        with self._lock:
            if self._closed:
                raise RuntimeError("the emitter is closed")
            if self._loop is None:
                loop = asyncio.new_event_loop()
                thread = threading.Thread(target=self._run, args=(loop,), name="remit-listeners", daemon=True)
                try:
                    thread.start()
                except RuntimeError:
                    loop.close()
                    raise
                self._loop, self._thread = loop, thread
            return self._loop

    @staticmethod
    def _run(loop: asyncio.AbstractEventLoop) -> None:
        try:
            loop.run_forever()
        finally:
            tasks = asyncio.all_tasks(loop)
            for task in tasks:
                task.cancel()
            if tasks:
                # A listener that swallows its cancellation must not keep the thread.
                loop.run_until_complete(asyncio.wait(tasks, timeout=0.5))
            loop.close()

    def close(self) -> None:
        """Cancel what runs on it, and end its thread."""
        with self._lock:
            self._closed = True
            loop, thread = self._loop, self._thread
            self._loop = self._thread = None
        if loop is not None and thread is not None:
            loop.call_soon_threadsafe(loop.stop)
            if thread is not threading.current_thread():
                thread.join(1.0)
