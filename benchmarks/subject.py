"""The function that everybody is measured with, and what every process that runs it has loaded."""

from __future__ import annotations

import sys

__all__ = ["f", "modules"]


def f(x: int) -> int:
    return x + 1


def modules() -> list[str]:
    return sorted(sys.modules)
