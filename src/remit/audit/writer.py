"""`Trail`: takes events from any thread or event loop.

What a caller may rely on: a `Recorded` means that the event survives the death of this process and, if it was denied,
privileged or asked to be durable (or `fsync="all"`), the loss of power. An error means that it is not in the trail.
Where the second place for checkpoints cannot be written, no event is taken until it can.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import os
import time
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Literal, Self

from remit.audit.checkpoint import Anchor
from remit.audit.group_commit import Entry, GroupCommit, Recorded, Settings
from remit.audit.keys import SigningKey
from remit.audit.record import Draft, draft
from remit.errors import AuditError
from remit.model.event import SecurityEvent

__all__ = ["Recorded", "Trail"]


def _close_own(writers: dict[int, GroupCommit]) -> None:
    writer = writers.pop(os.getpid(), None)
    if writer is not None:
        writer.order(stop=True)


def _around_forks(trail: weakref.ref[Trail]) -> None:
    """Have the trail let go of its file while this process forks. A hook stays for good; it outlives the trail idle."""

    def writer() -> GroupCommit | None:
        alive = trail()
        return None if alive is None else alive._writers.get(os.getpid())  # noqa: SLF001 - a part of the same class

    def before() -> None:
        if (own := writer()) is not None:
            own.pause()

    def after_in_parent() -> None:
        if (own := writer()) is not None:
            own.resume()

    def after_in_child() -> None:
        if (alive := trail()) is not None:
            alive._writers.clear()  # noqa: SLF001 - see above; its thread is not in this process

    os.register_at_fork(before=before, after_in_parent=after_in_parent, after_in_child=after_in_child)


class Trail:
    """An audit trail that is open for writing. Thread-safe. A forked child gets a writer of its own at its first event.

    Attributes:
        path: the file of the trail.
        key_path: the file of its signing key, or None where the key was given.
        anchor: the second place for checkpoints, or None.
    """

    def __init__(self, settings: Settings, key_path: Path | None) -> None:
        self._settings = settings
        self.path = settings.path
        self.key_path = key_path
        self.anchor = None if settings.anchor is None else settings.anchor.path
        # By process id, for a forked child has neither the writer thread nor the right to use the connection.
        self._writers: dict[int, GroupCommit] = {os.getpid(): GroupCommit(settings)}
        self._closed = False
        if hasattr(os, "register_at_fork"):
            _around_forks(weakref.ref(self))
        # Also at exit of the interpreter: what was queued is written, and the last events are signed.
        self._finalizer = weakref.finalize(self, _close_own, self._writers)

    @classmethod
    def open(
        cls,
        path: Path,
        *,
        key: SigningKey | None = None,
        key_path: Path | None = None,
        anchor: Path | None = None,
        fsync: Literal["denied", "all"] = "denied",
        checkpoint_every: int = 1000,
        checkpoint_seconds: float = 60,
        queue_size: int = 10_000,
        lock_timeout: float = 5.0,
        clock_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
    ) -> Trail:
        """Open a trail, or begin one where there is no file.

        Args:
            path: the file (0600; its folder is made, 0700, where there is none).
            key: what signs the checkpoints; else the key in `key_path`.
            key_path: default: beside the trail, ending in `.key`; made (0600) at first use.
            anchor: a second place for checkpoints; configured, it must take every one of them.
            fsync: `denied`: denied, privileged and durable events wait for the disk; `all`: all do.
            checkpoint_every: events from one checkpoint to the next, at most (a batch may add to it).
            checkpoint_seconds: seconds after which events are signed, at most.
            queue_size: events that may wait; at more, `record` waits and `submit` raises.
            lock_timeout: seconds that an event waits for another process's lock, at most.
            clock_ms: milliseconds since the epoch.

        Raises:
            AuditError: the trail or its key cannot be used; the message says why and what to do.
        """
        if key is not None and key_path is not None:
            raise AuditError("a trail is signed with `key` or with `key_path`, not with both", path=str(path))
        if fsync not in ("denied", "all"):
            raise AuditError(f"`{fsync}` is not a way to wait for the disk", remedy="use `denied` or `all`")
        if checkpoint_every < 1 or checkpoint_seconds <= 0 or queue_size < 1 or lock_timeout < 0:
            raise AuditError("the numbers of an audit trail must be above 0", path=str(path))
        path = path.absolute()
        if key is None:
            key_path = (path.with_suffix(".key") if key_path is None else key_path).absolute()
            # A trail that is there was signed from its first moment: without its key, a new one would be a forger's.
            key = SigningKey.load(key_path) if path.exists() else SigningKey.load_or_create(key_path)
        settings = Settings(
            path=path,
            key=key,
            anchor=None if anchor is None else Anchor(anchor.absolute()),
            sync_all=fsync == "all",
            every=checkpoint_every,
            seconds=checkpoint_seconds,
            queue_size=queue_size,
            lock_timeout=lock_timeout,
            clock_ms=clock_ms,
        )
        return cls(settings, key_path)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def submit(self, event: SecurityEvent, *, durable: bool = False) -> concurrent.futures.Future[Recorded]:
        """Queue an event from any thread; never waits.

        Raises:
            AuditError: the event is not plain data, the queue is full, or the trail is closed.
        """
        future: concurrent.futures.Future[Recorded] = concurrent.futures.Future()
        if not self._own().offer(Entry(self._draft(event, durable), None, future)):
            raise AuditError(
                f"more than {self._settings.queue_size} events wait for the audit trail `{self.path}`",
                path=str(self.path),
                remedy="wait and try again; if it lasts, look at the disk",
                retryable=True,
            )
        return future

    async def record(self, event: SecurityEvent, *, durable: bool = False) -> Recorded:
        """Write an event and wait until it is committed, and for room in the queue first.

        A task that is cancelled while it waits leaves its event in the trail, or not: the trail itself says.

        Raises:
            AuditError: the event is not in the trail.
        """
        loop = asyncio.get_running_loop()
        draft, writer = self._draft(event, durable), self._own()
        recorded = writer.commit_now(draft)
        if recorded is not None:
            return recorded
        future: asyncio.Future[Recorded] = loop.create_future()
        entry = Entry(draft, loop, future)
        while not writer.offer(entry):
            room: asyncio.Future[None] = loop.create_future()
            writer.wait_for_room(loop, room)
            await room
        return await future

    def record_now(self, event: SecurityEvent, *, durable: bool = False) -> Recorded:
        """Like `record`, for code that is not asynchronous: the thread waits.

        Raises:
            AuditError: the event is not in the trail.
        """
        draft, writer = self._draft(event, durable), self._own()
        recorded = writer.commit_now(draft)
        if recorded is not None:
            return recorded
        future: concurrent.futures.Future[Recorded] = concurrent.futures.Future()
        entry = Entry(draft, None, future)
        while not writer.offer(entry):
            room: concurrent.futures.Future[None] = concurrent.futures.Future()
            writer.wait_for_room(None, room)
            room.result()
        return future.result()

    def checkpoint(self) -> None:
        """Sign what is recorded so far, and bring it to the second place; waits.

        Raises:
            AuditError: it could not be signed or kept.
        """
        self._own().order()

    def close(self) -> None:
        """Write what is queued, sign it, and end. Idempotent.

        Raises:
            AuditError: the last events could not be signed; those that were acknowledged are in the trail.
        """
        self._closed = True
        self._finalizer.detach()
        _close_own(self._writers)

    def _draft(self, event: SecurityEvent, durable: bool) -> Draft:
        return draft(event, now_ms=self._settings.clock_ms(), durable=durable)

    def _own(self) -> GroupCommit:
        writer = self._writers.get(os.getpid())
        if writer is not None:
            return writer
        if self._closed:
            raise AuditError(
                f"the audit trail `{self.path}` is closed",
                path=str(self.path),
                remedy="record before the runtime is shut down",
            )
        made = GroupCommit(self._settings)
        # No lock: one that another thread held at the fork would never be free in the child. The loser of a race ends.
        writer = self._writers.setdefault(os.getpid(), made)
        if writer is not made:
            made.order(stop=True)
        return writer
