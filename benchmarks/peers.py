"""Those that a jailed call is held against. Each runs the same function; none is asked for more than its answer."""

from __future__ import annotations

import importlib
import inspect
import json
import multiprocessing
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from benchmarks import subject
from benchmarks.measure import timed
from remit.jail import interpreter

__all__ = [
    "ROOT",
    "Absent",
    "Forkers",
    "Pool",
    "bubblewrap",
    "cores",
    "import_subject",
    "plain_python",
    "sandlock",
]

ROOT = Path(__file__).resolve().parent.parent
_PYTHON = os.path.realpath(sys.executable)  # a link into another folder would lead out of a sandbox
_PROGRAM = f"import sys\n{inspect.getsource(subject.f)}\nprint(f(int(sys.argv[1])))"

Once = Callable[[], int]
"""Runs the function on 1 and answers what it answered."""


class Absent(Exception):
    """A peer is not on this machine, or does not work here; the message says which, why, and how it could be had."""


def cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0))


class Pool:
    """Reused worker processes that isolate nothing: what Python itself offers.

    Args:
        workers: how many.
    """

    def __init__(self, workers: int) -> None:
        # `spawn`: a fork of a process with threads, as this one is, is what Python itself warns about.
        self._pool = ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"))
        for waiting in [self._pool.submit(time.sleep, 0.05) for _ in range(4 * workers)]:
            waiting.result()

    def once(self) -> int:
        return self._pool.submit(subject.f, 1).result()

    def block(self, pauses: Sequence[float]) -> list[float]:
        """One sample in milliseconds after each pause of so many seconds."""
        samples = []
        for pause in pauses:
            time.sleep(pause)
            samples.append(timed(self.once, 2))
        return samples

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pool.shutdown(cancel_futures=True)


class Forkers:
    """Processes that have loaded `modules` and fork: the floor below anything that forks for each call.

    Args:
        count: how many.
        modules: by name; those that cannot be imported are in `lacking`.
    """

    def __init__(self, count: int, modules: Sequence[str]) -> None:
        words = [sys.executable, "-I", "-S", "-X", "utf8", str(Path(__file__).with_name("forker.py"))]
        self._processes = [
            subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env={}) for _ in range(count)
        ]
        path = [str(ROOT / "src"), str(ROOT)]
        self.lacking: list[str] = self._ask({"path": path, "modules": list(modules)})[0]

    def _ask(self, order: dict[str, Any]) -> list[Any]:
        for process in self._processes:
            if process.stdin is not None:
                process.stdin.write(json.dumps(order).encode() + b"\n")
                process.stdin.flush()
        return [json.loads(process.stdout.readline()) for process in self._processes if process.stdout is not None]

    def block(self, pauses: Sequence[float]) -> list[float]:
        """One sample in milliseconds after each pause of so many seconds, by the first of them."""
        first, self._processes, others = self._processes[:1], self._processes[:1], self._processes[1:]
        try:
            samples: list[float] = self._ask({"pauses": list(pauses)})[0]
        finally:
            self._processes = first + others
        return samples

    def rate(self, seconds: float) -> float:
        """Forks per second of all of them together."""
        answers: list[tuple[int, float]] = self._ask({"seconds": seconds})
        return sum(count / taken for count, taken in answers)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for process in self._processes:
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    pipe.close()
            process.wait()


def _run(words: Sequence[str]) -> int:
    done = subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, env={}, check=False)
    if done.returncode:
        said = done.stderr.decode("utf-8", "replace").strip().splitlines()[-1:] or ["no word"]
        raise Absent(f"{os.path.basename(words[0])} does not work here: {said[0]}")
    return int(done.stdout)


def plain_python() -> Once:
    """A fresh interpreter for each call, as bare as it gets, that isolates nothing."""
    words = (_PYTHON, "-I", "-S", "-c", _PROGRAM, "1")
    return lambda: _run(words)


def import_subject() -> Once:
    """A fresh interpreter that imports the function's module: what any start of Python for it costs."""
    program = f"import sys; sys.path.insert(0, {str(ROOT)!r}); from benchmarks.subject import f; print(f(1))"
    return lambda: _run((_PYTHON, "-I", "-c", program))


def _interpreter() -> list[str]:
    """What a fresh interpreter reads, as the jail has it."""
    base = [path for path in interpreter.python_roots() if "site-packages" not in path.split("/")]
    return [path for path in dict.fromkeys([*base, _PYTHON]) if os.path.exists(path)]


def bubblewrap() -> Once:
    """A fresh interpreter in all the namespaces that bubblewrap makes, with the interpreter's files and no others.

    Raises:
        Absent: it is not installed, or refused here.
    """
    found = shutil.which("bwrap")
    if found is None:
        raise Absent("bubblewrap is not installed (`apt install bubblewrap`)")
    binds = [word for path in _interpreter() for word in ("--ro-bind", path, path)]
    words = (found, "--unshare-all", "--die-with-parent", *binds, "--", _PYTHON, "-I", "-S", "-c", _PROGRAM, "1")
    return _working(lambda: _run(words))


def sandlock() -> Once:
    """A fresh interpreter under sandlock, with the interpreter's files and no others.

    Raises:
        Absent: it is not installed, or does not work here.
    """
    try:
        library = importlib.import_module("sandlock")
    except ImportError:
        raise Absent("sandlock is not installed (`pip install sandlock`)") from None
    words = [_PYTHON, "-I", "-S", "-c", _PROGRAM, "1"]
    readable = _interpreter()

    def once() -> int:
        done = library.Sandbox(fs_readable=readable).run(words, timeout=30)
        if not done.success:
            raise Absent(f"sandlock does not work here: {done.stderr!r:.200}")
        return int(done.stdout)

    return _working(once)


def _working(once: Once) -> Once:
    """The peer, once it has been seen to answer."""
    try:
        answer = once()
    except (OSError, ValueError, RuntimeError) as error:
        raise Absent(f"it does not work here: {error}") from error
    if answer != 2:
        raise Absent(f"it does not work here: it answers {answer}")
    return once
