"""How it is measured: blocks of ours and of theirs in turn, so that the noise of a shared machine hits both alike.

A ratio is the median of the ratios of neighbouring blocks, not the ratio of two medians: when the machine is slow for a
while, both blocks of a pair are slow. A 99th percentile needs more samples than a block has: it is taken over all.
"""

from __future__ import annotations

import math
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

__all__ = ["FULL", "QUICK", "Effort", "Pairs", "machine", "percentile", "timed"]


@dataclass(frozen=True, slots=True)
class Effort:
    """How much is measured.

    Attributes:
        blocks, block: how many pairs of blocks, and how many samples in one.
        starts: how many pairs of single starts of a program, which take tens of milliseconds.
        seconds, spans: how long one block of a rate lasts, and how many pairs of them.
    """

    blocks: int
    block: int
    starts: int
    seconds: float
    spans: int

    @property
    def samples(self) -> int:
        return self.blocks * self.block


FULL = Effort(blocks=50, block=100, starts=40, seconds=1.0, spans=7)
QUICK = Effort(blocks=10, block=40, starts=5, seconds=0.3, spans=3)


def percentile(samples: Sequence[float], share: float) -> float:
    """The smallest sample that at least `share` (0 to 1) of all are not above: nearest rank, nothing interpolated."""
    ordered = sorted(samples)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


@dataclass(slots=True)
class Pairs:
    """The samples of ours and of theirs, block by block, in milliseconds (or calls per second)."""

    ours: list[list[float]] = field(default_factory=list)
    theirs: list[list[float]] = field(default_factory=list)

    def add(self, ours: list[float], theirs: list[float]) -> None:
        """Two blocks that were measured one right after the other."""
        self.ours.append(ours)
        self.theirs.append(theirs)

    def p50(self) -> tuple[float, float, float]:
        """The median of ours, of theirs, and the median of the ratios of their blocks' medians."""
        ratios = [
            statistics.median(ours) / statistics.median(theirs)
            for ours, theirs in zip(self.ours, self.theirs, strict=True)
        ]
        return statistics.median(_flat(self.ours)), statistics.median(_flat(self.theirs)), statistics.median(ratios)

    def p99(self) -> tuple[float, float, float]:
        """The 99th percentile of ours, of theirs, and their ratio, each over all blocks."""
        ours, theirs = percentile(_flat(self.ours), 0.99), percentile(_flat(self.theirs), 0.99)
        return ours, theirs, ours / theirs


def _flat(blocks: Sequence[Sequence[float]]) -> list[float]:
    return [sample for block in blocks for sample in block]


def timed(work: Callable[[], Any], expected: Any) -> float:
    """How many milliseconds `work` takes. What it answers must be right: a failure is quick, and no figure.

    Raises:
        RuntimeError: it answered something else.
    """
    begun = time.perf_counter()
    answer = work()
    taken = time.perf_counter() - begun
    if answer != expected:
        raise RuntimeError(f"measured something that answers {answer!r}, not {expected!r}")
    return taken * 1e3


def machine() -> dict[str, Any]:
    """What this was measured on."""
    load = os.getloadavg()
    return {
        "cores": len(os.sched_getaffinity(0)),
        "kernel": f"{platform.system()} {platform.release()} {platform.machine()}",
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "load": [round(value, 2) for value in load],
        "user": "root" if os.geteuid() == 0 else "unprivileged",
        "switch_interval_ms": sys.getswitchinterval() * 1e3,
    }
