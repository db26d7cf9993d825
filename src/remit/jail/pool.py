"""How many calls may live, and how many should stand ready. Pure: no processes, no clock but the one that is passed."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from remit.jail.calls import Call

__all__ = ["Demand", "Slots"]

_LEAST, _MOST = 1, 16
_IDLE_SECONDS = 10.0


class Demand:
    """How many warm calls a template should keep: as many as recently lived at a time, and one more."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._peak_at = clock()
        self.target = 2

    def note(self, live: int, waiting: int) -> int | None:
        """Count a call that begins; returns the new target when it grows."""
        wanted = min(_MOST, max(_LEAST, live + waiting, 2))
        if wanted >= self.target:
            self._peak_at = self._clock()
        if wanted <= self.target:
            return None
        self.target = wanted
        return wanted

    def relax(self, live: int) -> int | None:
        """Let one go when the last peak is long past; returns the new target when it shrinks."""
        if self.target <= _LEAST or live >= self.target or self._clock() - self._peak_at < _IDLE_SECONDS:
            return None
        self._peak_at = self._clock()
        self.target -= 1
        return self.target


class Slots:
    """Who may have a live call: at most so many an owner, and so much memory in all; the rest wait, in order."""

    def __init__(self, budget: int) -> None:
        self._budget = budget
        self._memory = 0
        self._live: dict[str, int] = {}
        self._waiting: deque[tuple[str, int, int, Call]] = deque()

    def take(self, owner: str, slots: int, memory: int) -> bool:
        """Take a slot, if there is one and nobody of the same owner waits before."""
        if any(waiting[0] == owner for waiting in self._waiting) or not self._fits(owner, slots, memory):
            return False
        self._hold(owner, memory)
        return True

    def wait(self, owner: str, slots: int, memory: int, call: Call) -> None:
        """Stand in line."""
        self._waiting.append((owner, slots, memory, call))

    def waiting(self, owner: str) -> int:
        """Return how many of `owner` stand in line."""
        return sum(1 for entry in self._waiting if entry[0] == owner)

    def forget(self, call: Call) -> bool:
        """Leave the line; False if it does not stand in it."""
        for entry in self._waiting:
            if entry[3] is call:
                self._waiting.remove(entry)
                return True
        return False

    def give_back(self, owner: str, memory: int) -> list[Call]:
        """Give a slot back; returns the calls whose turn it is now, their slots taken."""
        self._memory -= memory
        left = self._live.get(owner, 0) - 1
        if left > 0:
            self._live[owner] = left
        else:
            self._live.pop(owner, None)
        ready = []
        for entry in list(self._waiting):
            name, slots, size, call = entry
            if self._fits(name, slots, size):
                self._waiting.remove(entry)
                self._hold(name, size)
                ready.append(call)
        return ready

    def drain(self) -> list[Call]:
        """Empty the line."""
        calls = [entry[3] for entry in self._waiting]
        self._waiting.clear()
        return calls

    def _fits(self, owner: str, slots: int, memory: int) -> bool:
        if slots and self._live.get(owner, 0) >= slots:
            return False
        # One call always may, however large: it is bounded by its own limit.
        return not self._budget or not self._memory or self._memory + memory <= self._budget

    def _hold(self, owner: str, memory: int) -> None:
        self._memory += memory
        self._live[owner] = self._live.get(owner, 0) + 1
