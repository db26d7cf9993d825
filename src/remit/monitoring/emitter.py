"""Events to listeners, at no listener's mercy.

Each listener has a bounded queue of its own and is served apart from the caller and from the other listeners: an
error in one, or one that never returns, costs the others nothing. When a queue is full the newest event is dropped
for that listener and counted. Nothing here is the record of what happened: that is the audit trail.

A sync listener runs in a thread of its own, one event at a time, in order. An async one runs on the loop on which it
was registered, or, where there was none, on a loop in a thread of the emitter's. Whoever has to touch objects of a
loop registers an async listener.
"""

from __future__ import annotations

import asyncio
import inspect
import threading
import time
from collections.abc import Callable, Iterable
from typing import Any, TypeVar, overload

from remit.errors import PolicyError
from remit.model.spelling import did_you_mean, shown
from remit.monitoring.seat import Listener, ListenerStats, LoopSeat, OwnLoop, Seat, ThreadSeat

__all__ = ["Emitter"]

_L = TypeVar("_L", bound=Listener)
_EVERY = "*"


class Emitter:
    """Names, listeners, events.

    Args:
        queue_size: how many events may wait for one listener, at least 1.
        names: the names that can be listened to (and "*"); with None any name can.

    Raises:
        ValueError: `queue_size` is not a positive integer.
    """

    def __init__(self, *, queue_size: int = 1000, names: Iterable[str] | None = None) -> None:
        if type(queue_size) is not int or queue_size < 1:
            raise ValueError("queue_size must be a positive integer")
        self._queue_size = queue_size
        self._names = None if names is None else frozenset(names)
        self._lock = threading.Lock()
        self._table: dict[str, tuple[Seat, ...]] = {}  # replaced, never changed: emit reads it without the lock
        self._leaving: tuple[Seat, ...] = ()  # had their one event; still waited for until they are done with it
        self._loop = OwnLoop()
        self._closed = False

    @overload
    def on(self, name: str, listener: None = None, *, once: bool = False) -> Callable[[_L], _L]: ...
    @overload
    def on(self, name: str, listener: _L, *, once: bool = False) -> _L: ...

    def on(self, name: str, listener: _L | None = None, *, once: bool = False) -> _L | Callable[[_L], _L]:
        """Call `listener(event)` for each event of `name`, or of any name for "*". Without a listener: a decorator.

        Args:
            name: an event's name.
            listener: sync or async.
            once: only for the next event.

        Raises:
            PolicyError: nothing of that name is ever emitted, the listener cannot be called, or the emitter is closed.
        """
        if listener is None:
            return lambda decorated: self.on(name, decorated, once=once)
        if not callable(listener):
            raise PolicyError(f"the listener for {shown(name)} cannot be called", remedy="give a function")
        if self._names is not None and name != _EVERY and name not in self._names:
            raise PolicyError(f"no event is named {shown(name)}", remedy=did_you_mean(name, self._names))
        called = listener if inspect.isfunction(listener) or inspect.ismethod(listener) else type(listener).__call__
        seat: Seat
        if inspect.iscoroutinefunction(listener) or inspect.iscoroutinefunction(called):
            try:
                seat = LoopSeat(name, listener, once, self._queue_size, asyncio.get_running_loop())
            except RuntimeError:
                seat = LoopSeat(name, listener, once, self._queue_size, self._loop)
        else:
            seat = ThreadSeat(name, listener, once, self._queue_size, self._loop)
        with self._lock:
            if self._closed:
                raise PolicyError("the emitter is closed", remedy="register listeners while the runtime is open")
            self._table = {**self._table, name: (*self._table.get(name, ()), seat)}
        return listener

    def off(self, name: str, listener: Listener | None = None) -> int:
        """Stop calling `listener` for `name` (without one: every listener of that name); how many were removed.

        What already waits for it is dropped.
        """
        with self._lock:
            seats = self._table.get(name, ())
            gone = [seat for seat in seats if listener is None or seat.listener == listener]
            self._keep(name, [seat for seat in seats if seat not in gone])
        for seat in gone:
            seat.stop()
        return len(gone)

    def emit(self, name: str, event: Any) -> None:
        """Hand `event` to whoever listens. It never raises, never blocks, and may be called from any thread."""
        table = self._table
        if not table:
            return
        for seat in table.get(name, ()):
            self._offer(seat, event)
        if name != _EVERY:
            for seat in table.get(_EVERY, ()):
                self._offer(seat, event)

    def stats(self) -> tuple[ListenerStats, ...]:
        """How each listener is doing, in the order of names and registration."""
        return tuple(seat.stats() for seats in self._table.values() for seat in seats)

    def flush(self, timeout: float = 5.0) -> bool:
        """Wait until every listener has had what was emitted before, at most `timeout` seconds; whether that is so.

        Not to be called on a loop that a listener needs: there `await drain()`.
        """
        deadline = time.monotonic() + timeout
        seats = [*self._leaving, *(seat for some in self._table.values() for seat in some)]
        return all(seat.wait(max(0.0, deadline - time.monotonic())) for seat in seats)

    async def drain(self, timeout: float = 5.0) -> bool:  # noqa: ASYNC109  # the deadline of many waits together
        """`flush`, for a coroutine."""
        answer: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        loop = answer.get_loop()

        def run() -> None:
            done = self.flush(timeout)
            try:
                loop.call_soon_threadsafe(_answer, answer, done)
            except RuntimeError:
                pass  # the loop was closed meanwhile: nobody waits any more

        threading.Thread(target=run, name="remit-drain", daemon=True).start()
        return await answer

    def close(self, timeout: float = 1.0) -> bool:
        """Let the listeners finish for at most `timeout` seconds, then stop them; whether all had finished.

        Events that are emitted afterwards go nowhere. Closing twice is closing once.
        """
        with self._lock:
            self._closed = True
        done = self.flush(timeout)
        with self._lock:
            seats = [*self._leaving, *(seat for some in self._table.values() for seat in some)]
            self._table = {}
            self._leaving = ()
        for seat in seats:
            seat.stop()
        self._loop.close()
        return done

    def _offer(self, seat: Seat, event: Any) -> None:
        if seat.once:
            with self._lock:
                seats = self._table.get(seat.name, ())
                if seat not in seats:
                    return  # another event came first
                self._keep(seat.name, [other for other in seats if other is not seat])
                seat.reserve()
                self._leaving = (*(other for other in self._leaving if not other.wait(0)), seat)
        seat.offer(event)

    def _keep(self, name: str, seats: list[Seat]) -> None:
        table = {key: value for key, value in self._table.items() if key != name}
        if seats:
            table[name] = tuple(seats)
        self._table = table


def _answer(answer: asyncio.Future[bool], value: bool) -> None:
    if not answer.done():
        answer.set_result(value)
