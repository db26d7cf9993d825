"""How the process ends: in order, and with the exit status that it would have had without us.

SIGTERM, SIGINT and SIGHUP begin an orderly shutdown; when it is done the earlier handlers are put back and the signal
is raised once more, so that whoever was there before us is called, and where nobody was the process dies of the
signal (a shell then sees 143, 130, 129). A second signal hurries: nothing more is waited for. A signal that was
ignored stays ignored (nohup). `atexit` is the last net, for programs that end without a shutdown.

Where a loop runs in the main thread, the shutdown is a task of it. Where that loop is blocked, so that the task does
not begin within a second, the shutdown is done beside it.
"""

from __future__ import annotations

import asyncio
import atexit
import logging
import os
import signal
import threading
from types import FrameType
from typing import Any, Protocol

__all__ = ["Ending", "Endings"]

_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
_LOG = logging.getLogger("remit.resources")


class Ending(Protocol):
    """What can be ended: `ResourceManager` is one."""

    async def shutdown(self) -> Any:
        """End in order, on the running loop."""

    def close(self) -> Any:
        """The same without a loop."""

    def hurry(self) -> None:
        """Let the one that is under way wait for nothing more."""


class Endings:
    """Ends `target` when the process ends.

    Args:
        target: what to end.
        blocked_after: float seconds after which a loop that has not begun the shutdown counts as blocked.
    """

    def __init__(self, target: Ending, *, blocked_after: float = 1.0) -> None:
        self._target = target
        self._blocked_after = blocked_after
        self._earlier: dict[int, Any] = {}
        self._pid = 0
        self._state = "idle"  # idle, then asked, begun, over; `blocked` where the loop did not begin
        self._task: asyncio.Task[None] | None = None

    def install(self) -> bool:
        """Begin to watch. Outside the main thread only `atexit` is used, as Python handles signals in the main thread.

        Returns:
            Whether signals are handled too.
        """
        if self._pid == os.getpid():
            return bool(self._earlier)
        self._pid = os.getpid()
        atexit.register(self._at_exit)
        if threading.current_thread() is not threading.main_thread():
            return False
        for number in _SIGNALS:
            earlier = signal.getsignal(number)
            # None: set by something other than Python, which could not be put back.
            if earlier is not signal.SIG_IGN and earlier is not None:
                self._earlier[number] = signal.signal(number, self._on_signal)
        return bool(self._earlier)

    def uninstall(self) -> None:
        """Stop watching, and put the earlier handlers back (where nobody else has replaced ours)."""
        atexit.unregister(self._at_exit)
        if threading.current_thread() is threading.main_thread():
            self._restore()
            self._pid = 0

    def _restore(self) -> None:
        for number, earlier in self._earlier.items():
            if signal.getsignal(number) == self._on_signal:
                signal.signal(number, earlier)
        self._earlier = {}

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        if os.getpid() != self._pid:  # a forked child: what there is to end is the parent's
            self._deliver(number)
        elif self._state == "idle":
            self._state = "asked"
            self._ask(number)
        elif self._state == "blocked":
            self._state = "begun"
            self._close_beside()
            self._deliver(number)
        else:
            self._target.hurry()
            self._deliver(number)

    def _ask(self, number: int) -> None:
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            self._state = "begun"
            self._close()
            self._deliver(number)
            return
        loop.call_soon_threadsafe(self._begin, loop, number)  # also wakes a loop that waits in select
        watch = threading.Timer(self._blocked_after, self._if_blocked, (number,))
        watch.daemon = True
        watch.start()

    def _begin(self, loop: asyncio.AbstractEventLoop, number: int) -> None:
        if self._state != "asked":
            return
        self._state = "begun"
        self._task = loop.create_task(self._shutdown(), name="remit-ending")
        # Not raised in the task itself: a KeyboardInterrupt would be logged as an exception that nobody fetched.
        self._task.add_done_callback(lambda _task: self._deliver(number))

    async def _shutdown(self) -> None:
        try:
            await self._target.shutdown()
        except asyncio.CancelledError:
            pass  # it has come to its end all the same
        except Exception:
            _LOG.exception("the shutdown failed")

    def _if_blocked(self, number: int) -> None:
        if self._state == "asked":
            self._state = "blocked"
            # A loop that is blocked in Python still lets signal handlers run in its thread.
            signal.pthread_kill(threading.main_thread().ident or 0, number)

    def _close_beside(self) -> None:
        thread = threading.Thread(target=self._close, name="remit-ending", daemon=True)
        thread.start()
        thread.join()

    def _close(self) -> None:
        try:
            self._target.close()
        except Exception:
            _LOG.exception("the shutdown failed")

    def _deliver(self, number: int) -> None:
        self._state = "over"
        self._restore()
        atexit.unregister(self._at_exit)
        signal.raise_signal(number)

    def _at_exit(self) -> None:
        if os.getpid() == self._pid:
            self._close()
