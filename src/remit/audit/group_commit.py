"""The writer thread: takes what is queued, commits it in groups, wakes the waiters, signs checkpoints.

One batch is whatever was waiting when the last one was done, in one transaction. Waiters hear after the commit; those
of one event loop are woken together. Checkpoints are signed, and the WAL folded, after the waiters have been woken.

An event that need not wait for the disk, and that comes while the writer rests, is committed by its caller: that is
one short write to the page cache, where waking the writer and being woken by it costs several times as much. Whatever
can take long (fsync, another process's lock, signing, folding) is the writer's alone.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import secrets
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Protocol

from remit.audit.checkpoint import Anchor, Checkpoint, open_note, origin_of
from remit.audit.keys import SigningKey
from remit.audit.record import Draft
from remit.audit.sqlite import Head, Store
from remit.audit.tree import EMPTY_ROOT
from remit.errors import AuditError

__all__ = ["Entry", "EventStore", "GroupCommit", "Recorded", "Settings"]

_MAX_BATCH = 1024  # bounds how long the first of a batch waits for the last, and the work that one failure loses


@dataclass(frozen=True, slots=True)
class Recorded:
    """Where an event stands on the trail: its number, from 1, and its id."""

    sequence: int
    id: str


class EventStore(Protocol):
    """What the writer needs of a store. Every method raises AuditError, and then has changed nothing."""

    @property
    def origin(self) -> str:
        """The name of the trail."""

    def append(self, drafts: Sequence[Draft], *, durable: bool) -> int:
        """Add events, all or none; return the number of the first."""

    def head(self) -> Head:
        """Where the trail stands."""

    def add_checkpoint(self, size: int, note: str) -> None:
        """Keep a signed head, durably."""

    def last_note(self) -> tuple[int, str]:
        """Size and note of the widest checkpoint."""

    def fold(self) -> None:
        """Housekeeping, called when nobody waits."""

    @property
    def wants_fold(self) -> bool:
        """Whether there is housekeeping to do."""

    def set_busy(self, busy_ms: int) -> None:
        """How long to wait for another process's lock, in milliseconds."""

    def release(self) -> None:
        """Let go of it until the next use: before a fork."""

    def close(self) -> None:
        """Let go of it for good."""


class Entry:
    """An event on its way, and who waits for it. `loop` is None where the waiter is a thread."""

    __slots__ = ("draft", "future", "loop", "since")

    def __init__(
        self,
        draft: Draft,
        loop: asyncio.AbstractEventLoop | None,
        future: asyncio.Future[Recorded] | concurrent.futures.Future[Recorded],
    ) -> None:
        self.draft = draft
        self.loop = loop
        self.future = future
        self.since = time.monotonic()


class _Order:
    """Something else for the writer to do: sign a checkpoint; then stop, or with `until` rest until that is set."""

    __slots__ = ("done", "nudge", "stop", "until")

    def __init__(self, *, stop: bool = False, until: threading.Event | None = None, nudge: bool = False) -> None:
        self.stop = stop
        self.until = until
        self.nudge = nudge  # look whether something is due; nobody waits
        self.done: concurrent.futures.Future[None] = concurrent.futures.Future()


@dataclass(frozen=True, slots=True)
class Settings:
    """What `Trail.open` was told; see there."""

    path: Path
    key: SigningKey
    anchor: Anchor | None
    sync_all: bool
    every: int
    seconds: float
    queue_size: int
    lock_timeout: float
    clock_ms: Callable[[], int]


Room = asyncio.Future[None] | concurrent.futures.Future[None]
_Answer = tuple[asyncio.Future[Recorded], Recorded | AuditError]


class GroupCommit:
    """The writer thread of one process, and the queue before it.

    Raises:
        AuditError: the trail cannot be opened, or is shorter than what the second place says.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._queue: SimpleQueue[Entry | _Order] = SimpleQueue()
        self._gate = threading.RLock()  # re-entrant: a signal handler may record while its own thread holds it
        self._closed = False
        self._room: deque[tuple[asyncio.AbstractEventLoop | None, Room]] = deque()
        self._unanchored: str | None = None
        self._unsigned = 0
        self._signing_failed = False
        self._late = False
        self._due: float | None = None
        self._resting: threading.Event | None = None
        self._using = threading.Lock()  # held by whoever uses the store
        store = _open_store(settings)
        try:
            self._begin(store)
        except BaseException:
            store.close()
            raise
        self._store: EventStore | None = store
        self._thread = threading.Thread(target=self._run, args=(store,), name="remit-audit", daemon=True)
        self._thread.start()

    # -- the callers' side -------------------------------------------------------------------------------------------

    def offer(self, entry: Entry) -> bool:
        """Queue an event; False where the queue is full."""
        with self._gate:
            if self._closed:
                raise AuditError(
                    f"the audit trail `{self._settings.path}` is closed",
                    path=str(self._settings.path),
                    remedy="record before the runtime is shut down",
                )
            if self._queue.qsize() >= self._settings.queue_size:
                return False
            self._queue.put(entry)
            return True

    def commit_now(self, draft: Draft) -> Recorded | None:
        """Commit one event in the caller's thread; None where that could wait for anything, and it must be queued.

        Raises:
            AuditError: the trail is closed, or the event cannot be written.
        """
        if draft.durable or self._settings.sync_all or not self._using.acquire(blocking=False):
            return None
        try:
            store = self._store
            if store is None or self._closed or not self._queue.empty() or self._resting is not None:
                return None
            if self._late or self._signing_failed or self._unanchored is not None:
                return None
            store.set_busy(0)
            try:
                sequence = store.append([draft], durable=False)
            except AuditError as error:
                if error.retryable:  # another process has the lock: the writer waits for it
                    return None
                raise
            self._unsigned += 1
            nudge = self._due is None or self._unsigned >= self._settings.every or store.wants_fold
        finally:
            self._using.release()
        if nudge:
            self._queue.put(_Order(nudge=True))
        return Recorded(sequence, draft.id)

    def wait_for_room(self, loop: asyncio.AbstractEventLoop | None, room: Room) -> None:
        """Have `room` set when it is worth to offer again."""
        self._room.append((loop, room))
        # The last batch may have been taken between the refusal and the line above: then nobody else would say so.
        if self._queue.qsize() < self._settings.queue_size:
            self._announce_room()

    def order(self, *, stop: bool = False) -> None:
        """Have a checkpoint signed, after all that was queued before; with `stop`, end the thread too. Idempotent."""
        order = _Order(stop=stop)
        with self._gate:
            if self._closed:
                if threading.current_thread() is not self._thread:
                    self._thread.join()
                return
            self._closed = stop
            self._queue.put(order)
        if threading.current_thread() is self._thread:  # the garbage collector ran in the writer itself
            return
        try:
            order.done.result()
        finally:
            if stop:
                self._thread.join()

    def pause(self) -> None:
        """Before a fork: have the writer let go of the file, and wait until it has.

        A child that inherits an open SQLite file inherits the belief that its process holds the locks, which it does
        not: it would be refused for ever, or worse, not be (sqlite.org/howtocorrupt.html, 2.6).
        """
        if threading.current_thread() is self._thread:  # a signer that forks: the writer is between two uses
            return
        order = _Order(until=threading.Event())
        with self._gate:
            if self._closed:
                return
            self._queue.put(order)
        order.done.result()
        self._resting = order.until

    def resume(self) -> None:
        """After the fork, in the parent: let the writer go on."""
        resting, self._resting = self._resting, None
        if resting is not None:
            resting.set()

    # -- the writer's side -------------------------------------------------------------------------------------------

    def _begin(self, store: EventStore) -> None:
        """Bring checkpoints and second place up to the head: a process that was killed may have left them behind."""
        self._check_anchor(store)
        head = store.head()
        if head.size > head.signed:
            self._unsigned = head.size - head.signed
            self._sign(store)
        elif self._settings.anchor is not None:
            size, note = store.last_note()
            if size > self._anchored:
                self._unanchored = note
                self._push_anchor()

    def _check_anchor(self, store: EventStore) -> None:
        """Refuse to go on with a trail that is shorter than what the second place says."""
        self._anchored = -1
        anchor, key = self._settings.anchor, self._settings.key
        if anchor is None:
            return
        anchor.append("")
        notes = list(anchor.last_notes())
        # Behind the notes, for another process may be appending: a note is never ahead of its trail.
        head = store.head()
        for note in notes:
            if origin_of(note) != store.origin:
                continue
            try:
                point = Checkpoint.parse(open_note(note, [key.verifier(store.origin)]))
            except ValueError:  # `verify` reports it; a note that nobody signed must not be able to stop the trail
                continue
            if point.size > head.size or (point.size == head.size and point.root != head.root):
                raise AuditError(
                    f"the audit trail `{self._settings.path}` has {head.size} events, but `{anchor.path}` holds a "
                    f"signed checkpoint of {point.size}: the trail was cut, changed or restored from an old copy",
                    path=str(self._settings.path),
                    remedy="keep both files, run `remit audit verify`, and begin a new trail at another path",
                )
            self._anchored = max(self._anchored, point.size)

    def _run(self, store: EventStore) -> None:
        # `store` is kept in this frame and nowhere else: where something forks without Python's knowledge, frames of
        # other threads are never cleared in the child, so that it does not close the parent's connection.
        while True:
            try:
                item = self._queue.get(timeout=self._until_due())
            except Empty:
                with self._using:
                    self._be_patient(store)
                    self._try_sign(store)
                continue
            batch: list[Entry] = []
            order: _Order | None = None
            while True:
                if isinstance(item, _Order):
                    order = item
                    break
                batch.append(item)
                if len(batch) >= _MAX_BATCH:
                    break
                try:
                    item = self._queue.get_nowait()
                except Empty:
                    break
            if batch:
                with self._using:
                    self._write(store, batch)
            if order is not None:
                with self._using:
                    self._obey(store, order)
                if order.stop:
                    return

    def _write(self, store: EventStore, batch: list[Entry]) -> None:
        """One batch: commit, wake its waiters, then the housekeeping."""
        settings = self._settings
        result: int | AuditError
        try:
            self._be_patient(store)
            if self._unanchored is not None:
                self._push_anchor()
            if self._signing_failed:
                self._sign(store)
            if self._late:  # the time that the oldest has already waited counts: no event waits twice
                waited = time.monotonic() - batch[0].since
                store.set_busy(max(0, int((settings.lock_timeout - waited) * 1000)))
            durable = settings.sync_all or any(entry.draft.durable for entry in batch)
            result = store.append([entry.draft for entry in batch], durable=durable)
            if self._late:
                self._late = False
                store.set_busy(int(settings.lock_timeout * 1000))
        except AuditError as error:
            self._late = True
            result = error
        except Exception as error:  # a waiter must always hear, and the thread must live on
            result = AuditError(
                f"the audit trail `{settings.path}` failed: {type(error).__name__}: {error}", path=str(settings.path)
            )
        self._settle(batch, result)
        if self._room:
            self._announce_room()
        if isinstance(result, AuditError):
            return
        self._unsigned += len(batch)
        self._keep_house(store)

    def _be_patient(self, store: EventStore) -> None:
        """Wait for another process's lock again: who commits in a thread of their own does not."""
        store.set_busy(int(self._settings.lock_timeout * 1000))

    def _keep_house(self, store: EventStore) -> None:
        """Sign when it is time to, and fold the log; called when nobody waits."""
        if self._due is None:
            self._due = time.monotonic() + self._settings.seconds
        if self._unsigned >= self._settings.every or time.monotonic() >= self._due:
            self._try_sign(store)
        store.fold()

    def _settle(self, batch: list[Entry], result: int | AuditError) -> None:
        """Tell every waiter of a batch, those of one event loop in one call."""
        loops: dict[asyncio.AbstractEventLoop, list[_Answer]] = {}
        for offset, entry in enumerate(batch):
            answer: Recorded | AuditError
            if isinstance(result, int):
                answer = Recorded(result + offset, entry.draft.id)
            else:
                # Each waiter its own: an exception that many tasks raise would collect all their tracebacks.
                answer = AuditError(result.reason, path=result.path, remedy=result.remedy, retryable=result.retryable)
                answer.__cause__ = result.__cause__
            if isinstance(entry.future, concurrent.futures.Future):
                _answer_thread(entry.future, answer)
            elif entry.loop is not None:
                loops.setdefault(entry.loop, []).append((entry.future, answer))
        for loop, answers in loops.items():
            try:
                loop.call_soon_threadsafe(_answer_loop, answers)
            except RuntimeError:  # the loop was closed: nobody is left to hear
                continue

    def _announce_room(self) -> None:
        while True:
            try:
                loop, room = self._room.popleft()
            except IndexError:
                return
            try:
                if loop is None:
                    _open_room(room)
                else:
                    loop.call_soon_threadsafe(_open_room, room)
            except RuntimeError:
                continue

    def _obey(self, store: EventStore, order: _Order) -> None:
        self._be_patient(store)
        if order.nudge:
            self._keep_house(store)
            return
        if order.until is not None:
            store.release()
            order.done.set_result(None)
            order.until.wait()
            return
        failure: BaseException | None = None
        try:
            self._sign(store)
        except Exception as error:
            failure = error
        if order.stop:
            self._store = None
            try:
                store.close()
            except Exception as error:
                failure = failure or error
        if failure is None:
            order.done.set_result(None)
        else:
            order.done.set_exception(failure)

    def _until_due(self) -> float | None:
        """Seconds until a checkpoint is due; None while there is nothing to sign."""
        return None if self._due is None else max(0.0, self._due - time.monotonic())

    def _try_sign(self, store: EventStore) -> None:
        try:
            self._sign(store)
        except Exception:
            self._signing_failed = True  # the next batch tries again, and its waiters hear why it cannot
            self._due = None

    def _sign(self, store: EventStore) -> None:
        """Sign the head, keep the note, and bring it to the second place."""
        settings = self._settings
        head = store.head()
        if head.size > head.signed:
            point = Checkpoint(store.origin, head.size, head.root, settings.clock_ms())
            note = point.sign(settings.key)
            store.add_checkpoint(head.size, note)
            if settings.anchor is not None:
                self._unanchored = note
        self._unsigned, self._due, self._signing_failed = 0, None, False
        self._push_anchor()

    def _push_anchor(self) -> None:
        if self._unanchored is not None and self._settings.anchor is not None:
            self._settings.anchor.append(self._unanchored)
            self._unanchored = None


def _answer_thread(future: concurrent.futures.Future[Recorded], answer: Recorded | AuditError) -> None:
    if not future.set_running_or_notify_cancel():
        return
    if isinstance(answer, Recorded):
        future.set_result(answer)
    else:
        future.set_exception(answer)


def _answer_loop(answers: list[_Answer]) -> None:
    for future, answer in answers:
        if future.done():  # its task was cancelled; the event is recorded all the same
            continue
        if isinstance(answer, Recorded):
            future.set_result(answer)
        else:
            future.set_exception(answer)


def _open_room(room: Room) -> None:
    if not room.done():
        room.set_result(None)


def _open_store(settings: Settings) -> Store:
    """The store, begun where there is none; refused where another key began it."""
    path = settings.path
    if not path.exists():
        origin = f"remit.audit/{secrets.token_hex(16)}"
        note = Checkpoint(origin, 0, EMPTY_ROOT, settings.clock_ms()).sign(settings.key)
        Store.create(path, origin, str(settings.key.verifier(origin)), note)
    store = Store(path, busy_ms=int(settings.lock_timeout * 1000))
    if store.verifier != str(settings.key.verifier(store.origin)):
        store.close()
        raise AuditError(
            f"the audit trail `{path}` was begun with another signing key",
            path=str(path),
            remedy="give the key with which it was begun, or name a new trail",
        )
    return store
