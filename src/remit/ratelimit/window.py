"""The sliding window: never more than N in any window of W nanoseconds.

A rule is the algorithm for one pair of limit and window; a log is what one key has used, a bare ``array('q')`` so
that a hundred thousand keys stay small. A rule holds no state of a key, a log knows no rule. Nothing here reads a
clock: `now` is an argument, nanoseconds on a clock that never runs backwards. It is not thread-safe; the limiter that
owns the logs is.

"Any window" means every half-open span [t, t + W): what was taken at t is free again at t + W, and not before.

Two forms:

- `ExactRule`, up to 4,096: a ring of the last N times. One attempt of weight w may pass exactly when the w-th oldest of
  the ring is W old, so a decision reads one slot, whatever N is. A weight takes as many slots as it weighs.
- `CountedRule`, beyond: counts in sub-windows of W/64. A sub-window is given back only when its *last* nanosecond is
  W old, so it errs on the side of refusing: it frees up to W/64 late and never admits too much.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right

__all__ = ["EXACT_LIMIT", "MAX_LIMIT", "MAX_WINDOW_MS", "CountedRule", "ExactRule", "Log", "Rule", "rule_for"]

Log = array  # array('q'): what one key has used; its layout belongs to the rule that made it

EXACT_LIMIT = 4096
"""The largest N that is kept as single times (8 bytes each)."""

MAX_LIMIT = 1 << 53
"""The largest N at all: sums of it stay far from the end of a 64-bit slot."""

MAX_WINDOW_MS = 10 * 366 * 24 * 3600 * 1000
"""The longest W, ten years: a time and a window still add up within 64 bits."""

_NEVER = -(1 << 63)  # an unused slot: older than any window reaches back
_FIRST_SLOTS = 8
_PARTS = 64
_RING = _PARTS + 2  # W spans at most _PARTS + 1 sub-windows: its first and last may both be cut


class ExactRule:
    """N in any W, remembered one by one. Slot 0 of a log is the place of the oldest, the rest is the ring."""

    __slots__ = ("limit", "window_ms", "window_ns")

    def __init__(self, limit: int, window_ms: int) -> None:
        self.limit = limit
        self.window_ms = window_ms
        self.window_ns = window_ms * 1_000_000

    def new(self) -> Log[int]:
        """An empty log. It grows with use, to 8 x limit bytes at most."""
        log = array("q", [_NEVER]) * (1 + min(self.limit, _FIRST_SLOTS))
        log[0] = 1
        return log

    def wait(self, log: Log[int], now: int, weight: int) -> int:
        """Nanoseconds until `weight` may pass if nothing else comes, 0 for at once; `1 <= weight <= limit`."""
        size = len(log) - 1
        if size < self.limit and (weight > size or log[self._slot(log, size, weight)] > now - self.window_ns):
            size = self._grow(log, size, weight)
        index = log[0] + weight - 1
        if index > size:
            index -= size
        wait = log[index] + self.window_ns - now
        return max(0, wait)

    def put(self, log: Log[int], now: int, weight: int) -> None:
        """Take `weight` at `now`; only after `wait` said 0 for the same log, time and weight."""
        index = log[0]
        size = len(log) - 1
        if weight == 1:
            log[index] = now
            log[0] = index + 1 if index < size else 1
            return
        first = min(weight, size - index + 1)
        stamps = array("q", [now]) * weight
        log[index : index + first] = stamps[:first]
        log[1 : 1 + weight - first] = stamps[first:]
        index += weight
        log[0] = index - size if index > size else index

    def used(self, log: Log[int], now: int) -> int:
        """How much of the window that ends at `now` is taken."""
        head = log[0]
        end = len(log)
        horizon = now - self.window_ns
        # The ring in order of time is log[head:] and then log[1:head].
        if log[-1] <= horizon:
            return head - bisect_right(log, horizon, 1, head)
        return end - bisect_right(log, horizon, head, end) + head - 1

    def idle_at(self, log: Log[int]) -> int:
        """When the last of it is given back: from then on the log may be forgotten."""
        head = log[0]
        return (log[head - 1] if head > 1 else log[-1]) + self.window_ns

    def refund(self, log: Log[int], at: int, weight: int) -> int:
        """Give back up to `weight` of what was taken at exactly `at`; how much it was."""
        head = log[0]
        order = log[head:] + log[1:head]
        start = bisect_left(order, at)
        count = min(weight, bisect_right(order, at) - start)
        del order[start : start + count]
        log[1:] = array("q", [_NEVER]) * count + order
        log[0] = 1
        return count

    @staticmethod
    def _slot(log: Log[int], size: int, weight: int) -> int:
        index: int = log[0] + weight - 1
        return index - size if index > size else index

    def _grow(self, log: Log[int], size: int, weight: int) -> int:
        # At least doubling makes the copying O(1) for each attempt, amortised.
        wanted = min(self.limit, max(2 * size, size + weight))
        head = log[0]
        log[1:] = array("q", [_NEVER]) * (wanted - size) + log[head:] + log[1:head]
        log[0] = 1
        return wanted


class CountedRule:
    """N in any W, counted in sub-windows. A log is [first live sub-window, last one, used, counts...]."""

    __slots__ = ("_step", "limit", "window_ms", "window_ns")

    def __init__(self, limit: int, window_ms: int) -> None:
        self.limit = limit
        self.window_ms = window_ms
        self.window_ns = window_ms * 1_000_000
        self._step = -(-self.window_ns // _PARTS)

    def new(self) -> Log[int]:
        """An empty log, of a fixed size."""
        return array("q", bytes(8 * (3 + _RING)))

    def wait(self, log: Log[int], now: int, weight: int) -> int:
        """Nanoseconds until `weight` may pass if nothing else comes, 0 for at once; `1 <= weight <= limit`."""
        self._expire(log, now)
        excess = log[2] + weight - self.limit
        if excess <= 0:
            return 0
        part = log[0]
        while excess > 0:
            excess -= log[3 + part % _RING]
            part += 1
        return part * self._step + self.window_ns - now

    def put(self, log: Log[int], now: int, weight: int) -> None:
        """Take `weight` at `now`; only after `wait` said 0 for the same log, time and weight."""
        part = now // self._step
        log[1] = part
        log[2] += weight
        log[3 + part % _RING] += weight

    def used(self, log: Log[int], now: int) -> int:
        """How much of the window that ends at `now` counts as taken."""
        self._expire(log, now)
        return log[2]

    def idle_at(self, log: Log[int]) -> int:
        """When the last of it is given back: from then on the log may be forgotten."""
        return (log[1] + 1) * self._step + self.window_ns if log[2] else _NEVER

    def refund(self, log: Log[int], at: int, weight: int) -> int:
        """Give back up to `weight` of what was taken in the sub-window of `at`; how much it was."""
        part = at // self._step
        if not log[0] <= part <= log[1]:
            return 0
        count = min(weight, log[3 + part % _RING])
        log[3 + part % _RING] -= count
        log[2] -= count
        return count

    def _expire(self, log: Log[int], now: int) -> None:
        first = (now - self.window_ns) // self._step  # the oldest sub-window that still has a part in the window
        part = log[0]
        while part < first and log[2]:
            index = 3 + part % _RING
            log[2] -= log[index]
            log[index] = 0
            part += 1
        if not log[2] and part < first:
            part = first
        log[0] = part


Rule = ExactRule | CountedRule


def rule_for(limit: int, window_ms: int) -> Rule:
    """The rule for `limit` attempts in any `window_ms` milliseconds.

    Raises:
        ValueError: the limit is not an integer of 0 to `MAX_LIMIT`, or the window not one of 1 to `MAX_WINDOW_MS`.
    """
    if type(limit) is not int or not 0 <= limit <= MAX_LIMIT:
        raise ValueError(f"a rate limit must be an integer from 0 to {MAX_LIMIT}")
    if type(window_ms) is not int or not 1 <= window_ms <= MAX_WINDOW_MS:
        raise ValueError(f"a window must be an integer of milliseconds from 1 to {MAX_WINDOW_MS}")
    return ExactRule(limit, window_ms) if limit <= EXACT_LIMIT else CountedRule(limit, window_ms)
