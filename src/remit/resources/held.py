"""Resources and their cleanup: last in, first out, each handler with its deadline, no error hiding another.

A handler may be sync or async. An async one runs on the loop on which the resource was registered while that loop
runs, else on the one that shuts down. A sync one runs in a thread of its own, so that it can be given up at its
deadline; where an object is bound to the thread that made it (sqlite3), give an async handler, which runs on the
loop. Without a loop (`close`: at exit and on signals) sync handlers run in the calling thread.

What SIGKILL leaves behind is the kernel's to clean: jails die with their supervisor.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import logging
import os
import threading
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Protocol, Self, TypeVar, overload

from remit.errors import LimitExceeded, PolicyError, RemitError
from remit.model.spelling import shown
from remit.model.units import UNLIMITED, AnyDuration, milliseconds_of
from remit.resources.cleanup import Resource, clean_here, clean_on_loop, shielded

__all__ = ["CleanupFailure", "CleanupReport", "Events", "ResourceManager", "ResourceUsage"]

_L = TypeVar("_L", bound=Callable[[Any], Any])
_LOG = logging.getLogger("remit.resources")
_MOST_RESOURCES = 1_000_000
_TAKEOVER_SECONDS = 0.1


@dataclass(frozen=True, slots=True)
class CleanupFailure:
    """One handler that did not do its work: it raised, or its deadline passed (`error` is then a `TimeLimit`)."""

    id: str
    type: str
    error: BaseException


@dataclass(frozen=True, slots=True)
class CleanupReport:
    """What a release or a shutdown did.

    Attributes:
        released: the ids whose handlers came to a good end, in the order in which they did.
        failures: the others, in the same order.
        skipped: the ids whose handlers were never started, because the shutdown was hurried.
    """

    released: tuple[str, ...] = ()
    failures: tuple[CleanupFailure, ...] = ()
    skipped: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether every handler came to a good end."""
        return not self.failures and not self.skipped

    @property
    def errors(self) -> BaseExceptionGroup[BaseException] | None:
        """All errors in one group, or None."""
        if not self.failures:
            return None
        return BaseExceptionGroup("cleanup failed", [failure.error for failure in self.failures])


@dataclass(frozen=True, slots=True)
class ResourceUsage:
    """How many resources are held, by type, and the limits of the types that have one."""

    held: int
    by_type: Mapping[str, int]
    limits: Mapping[str, int]


@dataclass(slots=True)
class _Progress:
    released: list[str] = field(default_factory=list)
    failures: list[CleanupFailure] = field(default_factory=list)

    def note(self, resource: Resource, error: BaseException | None) -> None:
        if error is None:
            self.released.append(resource.id)
            return
        _LOG.error("cleanup of %s failed", shown(resource.id), exc_info=error)
        self.failures.append(CleanupFailure(resource.id, resource.type, error))


class Events(Protocol):
    """What tells listeners: `remit.monitoring.Emitter` is one."""

    def on(self, name: str, listener: Any = None, *, once: bool = False) -> Any:
        """Register a listener, or make a decorator that does."""

    def off(self, name: str, listener: Any = None) -> int:
        """Remove a listener."""

    def emit(self, name: str, event: Any) -> None:
        """Tell the listeners; it neither raises nor blocks."""


class ResourceManager:
    """Holds what must be given back.

    Args:
        events: where `limit_exceeded` is emitted, and what `on` listens to.
        limits: how many resources of a type may be held at once.

    Use it with `async with`, or call `await shutdown()`.
    """

    def __init__(self, events: Events, *, limits: Mapping[str, int] | None = None) -> None:
        self._emitter = events
        self._limits = dict(limits or {})
        for kind, limit in self._limits.items():
            if type(limit) is not int or limit < 0:
                raise PolicyError(f"the limit of {shown(kind)} must be an integer of at least 0")
        self._lock = threading.Lock()
        self._resources: dict[str, Resource] = {}  # in the order of registration
        self._counts: Counter[str] = Counter()
        self._done: concurrent.futures.Future[CleanupReport] | None = None
        self._hurried = threading.Event()
        self._pid = os.getpid()
        self._runner: asyncio.AbstractEventLoop | int | None = None  # the loop, or the thread, that shuts down

    def register_resource(
        self,
        id: str,  # noqa: A002  # the names that users type
        type: str,  # noqa: A002  # likewise
        cleanup: Callable[[], Any],
        timeout: AnyDuration = "5s",
    ) -> None:
        """Hold a resource until `release(id)` or `shutdown()`.

        Args:
            id: its name, unique among those held.
            type: what it is, such as `connection`; limits count by it.
            cleanup: gives it back; called once, without arguments, sync or async.
            timeout: its deadline: an int of milliseconds, `"5s"`, or a timedelta.

        Raises:
            PolicyError: the id is taken, or an argument is of no use.
            LimitExceeded: too many of this type are held; `limit_exceeded` is emitted with the error.
            RemitError: the manager is shut down.
        """
        self._own()
        if not _is_name(id, 256) or not _is_name(type, 64):
            raise PolicyError("a resource needs an `id` of 1 to 256 characters and a `type` of 1 to 64")
        if not callable(cleanup):
            raise PolicyError(
                f"the cleanup of {shown(id)} cannot be called", remedy="give a function without arguments"
            )
        timeout_ms = milliseconds_of(timeout, name="timeout")
        if timeout_ms is UNLIMITED:
            raise PolicyError(f"the cleanup of {shown(id)} needs a deadline", remedy='write timeout="5s"')
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            loop = None
        with self._lock:
            if self._done is not None:
                raise RemitError(f"cannot hold {shown(id)}: the resources are shut down")
            if id in self._resources:
                raise PolicyError(
                    f"the resource {shown(id)} is held already", remedy="release it first, or name it otherwise"
                )
            held = self._counts[type]
            limit = self._limits.get(type, _MOST_RESOURCES)
            if held < limit:
                self._resources[id] = Resource(id, type, cleanup, int(timeout_ms), loop)
                self._counts[type] += 1
                return
        error = LimitExceeded(
            f"{held} resources of type {shown(type)} are held, the most that may be",
            limit=f"resources:{type}",
            value=limit,
            used=held,
            remedy="release one first",
            stage="resources",
            retryable=True,
        )
        self._emitter.emit("limit_exceeded", error)
        raise error

    async def release(self, id: str) -> CleanupReport:  # noqa: A002  # as it was registered
        """Clean one resource up now. Whatever its handler raises stands in the report.

        Raises:
            PolicyError: no such resource is held.
        """
        self._own()
        resource = self._take(id)
        if resource is None:
            raise PolicyError(f"no resource {shown(id)} is held")
        progress = _Progress()
        await shielded(self._clean(resource, progress))
        return CleanupReport(tuple(progress.released), tuple(progress.failures))

    async def shutdown(self) -> CleanupReport:
        """Clean everything up, last in, first out. Later calls wait for the first one and get its report.

        A cancellation of the caller is held back until the end and raised then: each handler has its deadline, so that
        end comes.
        """
        mine, done = self._begin(asyncio.get_running_loop())
        if mine:
            await shielded(self._run(done))
        while not done.done():
            await shielded(asyncio.wrap_future(done))
        return done.result()

    def close(self) -> CleanupReport:
        """`shutdown` without a loop, from a thread where none is running: at exit, in a signal handler, in sync
        programs.

        Raises:
            RemitError: a loop is running in this thread: `await shutdown()` there.
        """
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            pass
        else:
            raise RemitError("close() would block the running loop", remedy="write `await shutdown()`")
        mine, done = self._begin(threading.get_ident())
        if mine:
            self._run_here(done)
        elif self._runner == threading.get_ident() and not done.done():
            raise RemitError("the resources are being closed further up in this thread", remedy="use `hurry()`")
        while True:
            try:
                return done.result(_TAKEOVER_SECONDS)
            except concurrent.futures.TimeoutError:
                loop = self._runner
                if isinstance(loop, asyncio.AbstractEventLoop) and not loop.is_running():
                    self._run_here(done)  # the loop ended in the middle of it

    def hurry(self) -> None:
        """Start no further handler: a shutdown that is under way ends after the handler at hand is cancelled."""
        self._hurried.set()

    @property
    def is_shut_down(self) -> bool:
        """Whether a shutdown has begun."""
        return self._done is not None

    def usage(self) -> ResourceUsage:
        """What is held now."""
        self._own()
        with self._lock:
            by_type = {kind: count for kind, count in self._counts.items() if count}
            return ResourceUsage(len(self._resources), by_type, dict(self._limits))

    @overload
    def on(self, name: str, listener: None = None, *, once: bool = False) -> Callable[[_L], _L]: ...
    @overload
    def on(self, name: str, listener: _L, *, once: bool = False) -> _L: ...

    def on(self, name: str, listener: _L | None = None, *, once: bool = False) -> _L | Callable[[_L], _L]:
        """Listen to `limit_exceeded`; see `Emitter.on`."""
        answer: _L | Callable[[_L], _L] = self._emitter.on(name, listener, once=once)
        return answer

    def off(self, name: str, listener: Callable[[Any], Any] | None = None) -> int:
        """See `Emitter.off`."""
        return self._emitter.off(name, listener)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        report = await self.shutdown()
        if report.errors is None:
            return
        if error is None:
            raise report.errors
        # The body's own error is what the caller must see; the others stand beside it.
        for failure in report.failures:
            error.add_note(f"cleanup of {shown(failure.id)} failed as well: {shown(repr(failure.error))}")

    def _own(self) -> None:
        """In a forked child: what is held belongs to the parent, which cleans it up."""
        if os.getpid() != self._pid:
            self._pid = os.getpid()
            self._lock = threading.Lock()  # another thread of the parent may have held it
            self._resources = {}
            self._counts = Counter()
            self._done = None
            self._hurried = threading.Event()

    def _begin(self, runner: asyncio.AbstractEventLoop | int) -> tuple[bool, concurrent.futures.Future[CleanupReport]]:
        self._own()
        with self._lock:
            if self._done is not None:
                return False, self._done
            self._runner = runner
            self._done = concurrent.futures.Future()
            self._done.set_running_or_notify_cancel()
            return True, self._done

    def _take(self, name: str | None = None) -> Resource | None:
        with self._lock:
            if name is None:
                if not self._resources or self._hurried.is_set():
                    return None
                _, resource = self._resources.popitem()
            else:
                found = self._resources.pop(name, None)
                if found is None:
                    return None
                resource = found
            self._counts[resource.type] -= 1
            return resource

    async def _run(self, done: concurrent.futures.Future[CleanupReport]) -> None:
        progress = _Progress()
        try:
            while (resource := self._take()) is not None:
                await self._clean(resource, progress)
        finally:
            self._finish(progress, done)

    def _finish(self, progress: _Progress, done: concurrent.futures.Future[CleanupReport]) -> None:
        with self._lock:
            skipped = tuple(reversed(self._resources))
            self._resources.clear()
            self._counts.clear()
        if not done.done():
            done.set_result(CleanupReport(tuple(progress.released), tuple(progress.failures), skipped))

    async def _clean(self, resource: Resource, progress: _Progress) -> None:
        progress.note(resource, await clean_on_loop(resource, self._hurried))

    def _run_here(self, done: concurrent.futures.Future[CleanupReport]) -> None:
        progress = _Progress()
        try:
            while (resource := self._take()) is not None:
                try:
                    error = clean_here(resource)
                except (
                    BaseException
                ) as interrupted:  # such as Ctrl-C between two handlers: the rest still gets its turn
                    error = interrupted
                progress.note(resource, error)
        finally:
            self._finish(progress, done)


def _is_name(value: object, most: int) -> bool:
    return isinstance(value, str) and 0 < len(value) <= most
