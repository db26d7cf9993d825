"""The table of figures: what each is called, what it is held against, and which part of the run measures it.

The names are fixed: whoever keeps the JSON of several runs compares them by name.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

__all__ = ["FIXED", "ROWS", "Result", "Row", "UnknownRow", "chosen"]


@dataclass(frozen=True, slots=True)
class Row:
    """A figure.

    Attributes:
        name: begins with what it is about, dotted.
        unit: `ms` (less is better) or `calls/s` (more is better).
        against: the peer that it is divided by. A row that is held against what it is itself is the peer's own figure.
        part: what measures it; a part measures all of its rows together, block by block.
        meaning: in a few words.
    """

    name: str
    unit: str
    against: str
    part: str
    meaning: str


POOL = "process_pool_executor"
FLOOR = "fork_exit_wait"

ROWS = (
    Row("process_pool_executor.p50", "ms", POOL, "warm", "a reused worker that isolates nothing: submit().result()"),
    Row("process_pool_executor.p99", "ms", POOL, "warm", "the same, the slowest of a hundred"),
    Row("jail.warm.p50", "ms", POOL, "warm", "a jailed call while warm ones are ready"),
    Row("jail.warm.p99", "ms", POOL, "warm", "the same, the slowest of a hundred"),
    Row("fork_exit_wait.p50", "ms", FLOOR, "demand", "fork, exit and wait of an equal process: the floor"),
    Row("jail.on_demand.p50", "ms", FLOOR, "demand", "a jailed call that has to be forked first"),
    Row("fork_exit_wait.rate", "calls/s", FLOOR, "rate", "the floor, by two processes that fork at a time"),
    Row("jail.rate.floor", "calls/s", FLOOR, "rate", "jailed calls of 8 callers at a time, against the floor"),
    Row("jail.rate.2", "calls/s", POOL, "rate", "jailed calls of 2 callers at a time, against a worker for each core"),
    Row("jail.rate.8", "calls/s", POOL, "rate", "jailed calls of 8 callers at a time, against a worker for each core"),
    Row("subprocess.p50", "ms", "subprocess", "programs", "a fresh `python -I -S` that isolates nothing"),
    Row("jail.warm.subprocess", "ms", "subprocess", "programs", "a jailed call against it"),
    Row("bubblewrap.p50", "ms", "bubblewrap", "programs", "bubblewrap with a fresh python"),
    Row("jail.warm.bubblewrap", "ms", "bubblewrap", "programs", "a jailed call against it"),
    Row("sandlock.p50", "ms", "sandlock", "programs", "sandlock with a fresh python"),
    Row("jail.warm.sandlock", "ms", "sandlock", "programs", "a jailed call against it"),
    Row("jail.rate.bubblewrap", "calls/s", "bubblewrap", "programs", "8 callers at a time, against bubblewrap's 8"),
    Row("jail.rate.sandlock", "calls/s", "sandlock", "programs", "8 callers at a time, against sandlock's 8"),
    Row("call.warm.p50", "ms", POOL, "call", "await agent.call(...) with rate limit, validation, audit, events"),
    Row("call.warm.p99", "ms", POOL, "call", "the same, the slowest of a hundred"),
    Row("call.rate.8", "calls/s", POOL, "call", "whole calls of 8 tasks at a time, against a worker for each core"),
    Row("startup.first_call", "ms", "python_import", "startup", "a new runtime and its first call; python -I + import"),
)

FIXED = (
    "jail.warm.p50",
    "jail.warm.p99",
    "jail.on_demand.p50",
    "jail.rate.floor",
    "jail.rate.bubblewrap",
    "call.warm.p50",
    "call.warm.p99",
)
"""The rows that the project's promises are about."""


@dataclass(frozen=True, slots=True)
class Result:
    """A measured row: the value in the row's unit, and ours / theirs."""

    row: Row
    value: float
    ratio: float

    def as_dict(self) -> dict[str, Any]:
        """As it stands in the JSON."""
        row = self.row
        value, ratio = (float(f"{number:.4g}") for number in (self.value, self.ratio))
        return {"name": row.name, "value": value, "unit": row.unit, "against": row.against, "ratio": ratio}


class UnknownRow(ValueError):
    """No row has this name, and none begins with it."""


def chosen(names: Sequence[str]) -> tuple[Row, ...]:
    """The rows of these names, or beneath them (`call` is every `call.*`); all rows without any.

    Raises:
        UnknownRow: a name that is none.
    """
    found = []
    for name in names:
        beneath = [row for row in ROWS if row.name == name or row.name.startswith(name.rstrip(".") + ".")]
        if not beneath:
            raise UnknownRow(f"`{name}` is not a row; known: {', '.join(row.name for row in ROWS)}")
        found += beneath
    return tuple(row for row in ROWS if row in found) if names else ROWS
