"""The floor: a process that has loaded what a call of ours has, and forks, as fast as the machine lets it.

Run by `peers.Forkers` as a clean `python -I -S`, like the process that our calls are forked from. One JSON line in, one
out: first `{"path": [...], "modules": [...]}`, then `{"pauses": [...]}` (a sample after each pause of so many seconds;
answers milliseconds) or `{"seconds": s}` (forks for so long; answers how many, and how long it took).
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import sys
import time

__all__ = ["main"]


def once() -> None:
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)


def sampled(pauses: list[float]) -> list[float]:
    samples = []
    for pause in pauses:
        time.sleep(pause)
        begun = time.perf_counter()
        once()
        samples.append((time.perf_counter() - begun) * 1e3)
    return samples


def counted(seconds: float) -> tuple[int, float]:
    begun = time.perf_counter()
    count = 0
    while (taken := time.perf_counter() - begun) < seconds:
        once()
        count += 1
    return count, taken


def load(names: list[str]) -> list[str]:
    """Import what a call of ours has loaded; answer what could not be."""
    lacking = []
    for name in names:
        try:
            importlib.import_module(name)
        except ImportError:
            lacking.append(name)
    gc.collect()
    gc.freeze()
    return lacking


def main() -> None:
    for line in sys.stdin:
        order = json.loads(line)
        if "modules" in order:
            sys.path[:0] = order["path"]
            answer: object = load(order["modules"])
        elif "pauses" in order:
            answer = sampled(order["pauses"])
        else:
            answer = counted(order["seconds"])
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
