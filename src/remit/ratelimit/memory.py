"""Rate limits of one process: exact, thread-safe, bounded.

What counts. An attempt that is admitted is counted and stays counted, whatever a later stage says of it: one that the
policy denies is not refunded, so probing the policy is not free. An attempt that the limiter itself refuses is not
counted: if it were, a caller that keeps knocking would never get in again, and `retry_after` would be a lie. A refund
is for a call that was admitted and never ran for a fault of ours.

All demands of one call are taken in one step or none of them is.

Keys are names that the runtime authenticated, never strings that a caller made up. A key in use is never evicted; when
`max_keys` are in use a new one is refused, and idle ones are swept a few at each call.
"""

from __future__ import annotations

import math
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator, Sequence
from heapq import nsmallest
from itertools import accumulate, islice
from typing import Literal, NamedTuple

from remit.errors import RateLimited
from remit.ratelimit.window import Log, Rule, rule_for

__all__ = ["Demand", "MemoryLimiter", "Ticket", "Verdict", "WindowUsage"]

Refusal = Literal["", "rate", "weight", "keys"]

_SWEPT_AT_ONCE = 8  # at every fourth call


class Demand(NamedTuple):
    """What one call asks of one window.

    Attributes:
        key: whose window it is; a string, or a tuple of strings such as `("function", "agent-1", "word_count")`.
        limit: how much fits into any window; 0 refuses everything.
        window_ms: length of the window, integer milliseconds.
        weight: what this call weighs; 1 for an attempt, the number of tokens for a token budget.

    The same key under another limit or window is another window: "10 a second and 100 a minute" are two demands.
    """

    key: str | tuple[Hashable, ...]
    limit: int
    window_ms: int
    weight: int = 1


class Ticket:
    """What one admitted call took; `MemoryLimiter.refund` takes it back, once."""

    __slots__ = ("at", "taken")

    def __init__(self, at: int, taken: list[tuple[Rule, Log[int], int]]) -> None:
        self.at = at
        self.taken = taken


class Verdict(NamedTuple):
    """The answer to one `take`. True in a condition when it was admitted.

    Attributes:
        allowed: whether every demand was met, and so taken.
        retry_after: float seconds; 0.0 when allowed. After it the same demands are met if nothing else comes;
            `math.inf` when they never can be (a weight above its limit).
        limit, window_ms, key: of the demand that decided: the one that must wait longest, or, when allowed, the one
            with the least left.
        remaining: what is left in that window now. refusal: why not: `rate`, `weight` (more than the limit, for
            ever), `keys` (no room for a new key); "" if allowed. ticket: for `refund`; None when nothing was taken.
    """

    allowed: bool
    retry_after: float
    limit: int
    window_ms: int
    remaining: int
    key: str | tuple[Hashable, ...]
    refusal: Refusal
    ticket: Ticket | None

    def __bool__(self) -> bool:
        return self.allowed

    def error(self, action: str) -> RateLimited:
        """The error for a refused verdict; `action` is what was attempted, such as a function's name."""
        window = f"{self.window_ms / 1000:g} s"
        if self.refusal == "keys":
            reason = f"no room to count `{action}`: every key of the rate limiter is in use"
            remedy = f"retry in {self.retry_after:.3f} s, or raise `max_keys`"
        elif self.refusal == "weight":
            reason = f"`{action}` weighs more than the whole limit of {self.limit} in any {window}"
            remedy = "ask for less at once, or raise the limit"
        else:
            reason = f"too many attempts at `{action}`: at most {self.limit} in any {window}"
            remedy = f"retry in {self.retry_after:.3f} s"
        return RateLimited(
            reason,
            retry_after=self.retry_after,
            limit=self.limit,
            window_ms=self.window_ms,
            remaining=self.remaining,
            remedy=remedy,
        )


class WindowUsage(NamedTuple):
    """How one window of a key stands: `reset_after` is float seconds until all of it is free, if nothing else comes."""

    limit: int
    window_ms: int
    used: int
    remaining: int
    reset_after: float


class _Table:
    """The keys that share one rule, the longest unused first: that one is also the first to fall idle."""

    __slots__ = ("logs", "rule")

    def __init__(self, rule: Rule) -> None:
        self.rule = rule
        self.logs: OrderedDict[Hashable, Log[int]] = OrderedDict()


class MemoryLimiter:
    """Sliding windows in the memory of this process.

    Args:
        clock_ns: a clock in integer nanoseconds; it should be monotonic, and where it steps back it is held still.
        max_keys: how many windows may be in use at once (one key under two limits counts twice).

    Raises:
        ValueError: `max_keys` is not a positive integer.
    """

    def __init__(self, clock_ns: Callable[[], int] = time.monotonic_ns, max_keys: int = 100_000) -> None:
        if type(max_keys) is not int or max_keys < 1:
            raise ValueError("max_keys must be a positive integer")
        self._clock = clock_ns
        self._max_keys = max_keys
        self._lock = threading.Lock()
        self._tables: OrderedDict[tuple[int, int], _Table] = OrderedDict()
        self._count = 0
        self._turn = 0
        self._now = -(1 << 62)

    def take(self, demands: Sequence[Demand]) -> Verdict:
        """Take all demands in one step, or none of them.

        Raises:
            ValueError: a limit, window or weight that is no integer or out of range; nothing was taken.
        """
        count = len(demands)
        if (count == 2 and demands[0][0] == demands[1][0]) or count > 2:  # two demands are the usual call
            demands = _merged(demands)
        with self._lock:
            now = self._tick()
            self._turn += 1
            if not self._turn & 3:
                self._sweep_some(now)
            plan: list[tuple[_Table, Hashable, Log[int], int]] = []
            worst: Demand | None = None
            worst_wait: float = 0
            missing = 0
            for demand in demands:
                key, limit, window_ms, weight = demand
                if type(weight) is not int or weight < 1:
                    raise ValueError("a weight must be a positive integer")
                table = self._tables.get((limit, window_ms))
                if table is None:
                    table = self._new_table(limit, window_ms)
                log = table.logs.get(key)
                if log is None:
                    log = table.rule.new()
                    missing += 1
                wait = math.inf if weight > limit else table.rule.wait(log, now, weight)
                if wait > worst_wait:
                    worst, worst_wait = demand, wait
                plan.append((table, key, log, weight))
            if worst is None and (missing == 0 or self._make_room(now, missing, plan)):
                return self._commit(now, plan)
            refusal: Refusal = "weight" if worst_wait == math.inf else "rate"
            if missing:
                keys_wait = self._room_in(now, missing, plan)
                if keys_wait > worst_wait or worst is None:
                    worst, worst_wait, refusal = self._first_missing(demands), keys_wait, "keys"
            if worst is None:  # no demand, no refusal
                raise AssertionError("a refusal without a demand")
            return self._refused(now, worst, worst_wait, refusal)

    def refund(self, ticket: Ticket) -> bool:
        """Give back what `ticket` took, where it still counts. False when it was given back before."""
        with self._lock:
            taken, ticket.taken = ticket.taken, []
            for rule, log, weight in taken:
                rule.refund(log, ticket.at, weight)
            return bool(taken)

    def usage(self, key: str | tuple[Hashable, ...]) -> tuple[WindowUsage, ...]:
        """How each window of `key` stands, the shortest window first; empty when nothing of it is in use."""
        with self._lock:
            now = self._tick()
            found = []
            for table in self._tables.values():
                log = table.logs.get(key)
                if log is None:
                    continue
                rule = table.rule
                used = rule.used(log, now)
                if used:
                    reset = _seconds(rule.idle_at(log) - now)
                    found.append(WindowUsage(rule.limit, rule.window_ms, used, rule.limit - used, reset))
            return tuple(sorted(found, key=lambda usage: (usage.window_ms, usage.limit)))

    def __len__(self) -> int:
        """How many windows are held now, idle ones that were not swept yet among them."""
        return self._count

    def _tick(self) -> int:
        # A clock that steps back must not make old attempts look new, nor bring them out of order.
        self._now = now = max(self._now, self._clock())
        return now

    def _commit(self, now: int, plan: list[tuple[_Table, Hashable, Log[int], int]]) -> Verdict:
        taken = []
        tightest: Rule | None = None
        tightest_key: Hashable = ""
        remaining = 0
        for table, key, log, weight in plan:
            rule = table.rule
            rule.put(log, now, weight)
            logs = table.logs
            if key in logs:
                logs.move_to_end(key)
            else:
                logs[key] = log
                self._count += 1
            left = rule.limit - rule.used(log, now)
            if tightest is None or left < remaining:
                tightest, tightest_key, remaining = rule, key, left
            taken.append((rule, log, weight))
        if tightest is None:
            return Verdict(True, 0.0, 0, 0, 0, "", "", None)
        return Verdict(
            True,
            0.0,
            tightest.limit,
            tightest.window_ms,
            remaining,
            tightest_key,  # type: ignore[arg-type]  # it is the key of a demand
            "",
            Ticket(now, taken),
        )

    def _refused(self, now: int, demand: Demand, wait: float, refusal: Refusal) -> Verdict:
        table = self._tables[demand.limit, demand.window_ms]
        log = table.logs.get(demand.key)
        remaining = demand.limit if log is None else demand.limit - table.rule.used(log, now)
        retry = math.inf if wait == math.inf else _seconds(int(wait))
        return Verdict(False, retry, demand.limit, demand.window_ms, remaining, demand.key, refusal, None)

    def _first_missing(self, demands: Sequence[Demand]) -> Demand:
        return next(d for d in demands if d.key not in self._tables[d.limit, d.window_ms].logs)

    def _new_table(self, limit: int, window_ms: int) -> _Table:
        table = _Table(rule_for(limit, window_ms))
        self._tables[limit, window_ms] = table
        return table

    def _sweep_some(self, now: int) -> None:
        """Drop a few idle keys of the table whose turn it is: bounded work at each call, no pause ever."""
        if not self._tables:
            return
        shape = next(iter(self._tables))
        table = self._tables[shape]
        for _ in range(_SWEPT_AT_ONCE):
            if not self._drop_idle(table, now, frozenset()):
                break
        if table.logs:
            self._tables.move_to_end(shape)
        else:
            del self._tables[shape]

    def _drop_idle(self, table: _Table, now: int, keep: frozenset[int]) -> bool:
        for key, log in table.logs.items():
            if id(log) in keep:
                continue  # at most as many as one call has demands
            if table.rule.idle_at(log) > now:
                return False
            del table.logs[key]
            self._count -= 1
            return True
        return False

    def _make_room(self, now: int, missing: int, plan: list[tuple[_Table, Hashable, Log[int], int]]) -> bool:
        if self._count + missing <= self._max_keys:
            return True
        keep = frozenset(id(log) for _, _, log, _ in plan)  # an own key is about to be used: it makes no room
        for table in self._tables.values():
            while self._drop_idle(table, now, keep):
                if self._count + missing <= self._max_keys:
                    return True
        return False

    def _room_in(self, now: int, missing: int, plan: list[tuple[_Table, Hashable, Log[int], int]]) -> float:
        """Nanoseconds until `missing` keys have room, if nothing else comes."""
        short = self._count + missing - self._max_keys
        if short <= 0:
            return 0
        keep = frozenset(id(log) for _, _, log, _ in plan)
        soonest = nsmallest(short, (at for table in self._tables.values() for at in _idle_times(table, keep, short)))
        return max(0, soonest[-1] - now) if len(soonest) == short else math.inf


def _idle_times(table: _Table, keep: frozenset[int], count: int) -> Iterator[int]:
    # A running maximum, because only the head of a table is dropped and a refund can make a later one idle earlier.
    others = (log for log in table.logs.values() if id(log) not in keep)
    return accumulate(map(table.rule.idle_at, islice(others, count)), max)


def _merged(demands: Sequence[Demand]) -> list[Demand]:
    """One demand for each window: two on the same window must fit into it together."""
    merged: dict[tuple[Hashable, int, int], Demand] = {}
    for demand in demands:
        shape = demand[:3]
        earlier = merged.get(shape)
        if earlier is not None:
            for weight in (earlier.weight, demand.weight):
                if type(weight) is not int or weight < 1:
                    raise ValueError("a weight must be a positive integer")
            merged[shape] = demand._replace(weight=earlier.weight + demand.weight)
        else:
            merged[shape] = demand
    return list(merged.values())


def _seconds(nanoseconds: int) -> float:
    """Float seconds, rounded up to a microsecond, so that whoever sleeps them does not wake too early."""
    return (nanoseconds // 1000 + 1) / 1_000_000
