"""What tests of the whole way share: the default runtime of the test process, its trail, and programs of their own."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from remit.audit.reader import Reader
from remit.audit.record import decode
from remit.config import SecurityConfig
from remit.model.event import SecurityEvent
from remit.runtime import Runtime, active_runtime

_numbers = itertools.count(1)


def unique(name: str = "agent") -> str:
    """A name that no other test's agent has: the tests share a runtime."""
    return f"{name}-{next(_numbers)}"


def end_default_runtime() -> None:
    """Leave no process behind for the tests of other files, which may count them."""
    active_runtime().close()


def config(folder: Path, **sections: Any) -> SecurityConfig:
    """A configuration whose state lies in `folder`."""
    return SecurityConfig.from_mapping(sections, env={}, state_dir=str(folder / "state"))


def events(runtime: Runtime | Path | None = None, **wanted: Any) -> list[SecurityEvent]:
    """The events of a trail, oldest first, whose fields are as wanted."""
    if not isinstance(runtime, Path):
        trail = (runtime or active_runtime()).audit
        assert trail is not None
        runtime = trail.path
    with Reader(runtime) as reader:
        found = [decode(data).event for _, data in reader.records()]
    return [event for event in found if all(getattr(event, name) == value for name, value in wanted.items())]


def program(folder: Path, text: str, *, name: str = "program.py") -> Path:
    """Write a program."""
    path = folder / name
    path.write_text(textwrap.dedent(text), encoding="utf-8")
    return path


def environment(folder: Path) -> dict[str, str]:
    """The environment of a program of its own: a state folder beneath `folder`, nothing of a configuration."""
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
    return {**kept, "REMIT_STATE_DIR": str(folder / "state"), "PYTHONWARNINGS": "error"}


@contextmanager
def started(folder: Path, text: str, *, name: str = "program.py") -> Iterator[subprocess.Popen[str]]:
    """Start a program in `folder`; it is killed when the block is left."""
    process = subprocess.Popen(
        [sys.executable, str(program(folder, text, name=name))],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=folder,
        env=environment(folder),
    )
    with process:
        try:
            yield process
        finally:
            process.kill()


def run(folder: Path, text: str, *, name: str = "program.py", status: int = 0) -> str:
    """Run a program to its end; what it wrote."""
    with started(folder, text, name=name) as process:
        out, err = process.communicate(timeout=90)
    assert process.returncode == status, err
    assert "Traceback" not in err, err
    return out


def trail_of(folder: Path) -> Path:
    """The trail of a program that ran in `folder`."""
    (found,) = [path for path in (folder / "state").iterdir() if path.suffix == ".db"]
    return found


def descendants(pid: int) -> set[int]:
    """The processes beneath `pid` now."""
    parents: dict[int, int] = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                text = Path(f"/proc/{entry}/stat").read_text(encoding="utf-8", errors="replace")
            except OSError:
                continue
            parents[int(entry)] = int(text.rsplit(")", 1)[1].split()[1])
    found: set[int] = set()
    waiting = [pid]
    while waiting:
        above = waiting.pop()
        below = [child for child, parent in parents.items() if parent == above and child not in found]
        found.update(below)
        waiting += below
    return found


def alive(pids: set[int]) -> set[int]:
    """Those that run: not gone, and no zombies."""
    found = set()
    for pid in pids:
        try:
            text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
        except OSError:
            continue
        if text.rsplit(")", 1)[1].split()[0] not in "ZX":
            found.add(pid)
    return found


def gone(pids: set[int], seconds: float = 20.0) -> bool:
    """Wait until all have ended; False if some never do."""
    deadline = time.monotonic() + seconds
    while alive(pids):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True
