"""The command line as its users start it: a process of its own, as root or as somebody else."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[3]
NOBODY = 65534


def command(*arguments: object, python: str = sys.executable) -> list[str]:
    return [python, "-P", "-m", "remit", *map(str, arguments)]


def environment(state: Path, **more: str) -> dict[str, str]:
    """What a shell would have; the coverage of the tests goes on in it where it is measured."""
    return {"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8", "HOME": str(state), "REMIT_STATE_DIR": str(state / "s"), **more}


def remit(*arguments: object, cwd: Path, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run `remit`; standard input is empty unless `input` says otherwise."""
    options.setdefault("env", environment(cwd))
    if "stdin" not in options:
        options.setdefault("input", "")
    return subprocess.run(
        command(*arguments, python=options.pop("python", sys.executable)),
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
        **options,
    )


def clean(done: subprocess.CompletedProcess[str], status: int) -> str:
    """That it ended with `status` and one message, without a traceback; returns the message."""
    assert done.returncode == status, (done.returncode, done.stdout, done.stderr)
    assert "Traceback" not in done.stderr
    return done.stderr


@cache
def python_for_everybody() -> tuple[str, str] | None:
    """An interpreter of this version that anybody can start, and where it finds remit; None if there is none."""
    name = f"python{sys.version_info[0]}.{sys.version_info[1]}"
    path = f"{ROOT / 'src'}:{sysconfig.get_path('purelib')}:{sysconfig.get_path('platlib')}"
    for python in (sys.executable, os.path.realpath(sys.executable), f"/usr/bin/{name}", f"/usr/local/bin/{name}"):
        try:
            done = subprocess.run(
                [python, "-c", "import remit.runtime"],
                env={"PYTHONPATH": path},
                cwd="/",
                user=NOBODY,
                group=NOBODY,
                extra_groups=[],
                capture_output=True,
                check=False,
                timeout=60,
            )
        except OSError:
            continue
        if done.returncode == 0:
            return python, path
    return None


@pytest.fixture
def unprivileged() -> Iterator[tuple[Path, dict[str, Any]]]:
    """A folder of uid 65534's own, and how to call `remit` as it."""
    if os.geteuid() != 0:
        pytest.skip("needs a python for everybody, and root to become somebody else")
    found = python_for_everybody()
    if found is None:
        pytest.skip("needs a python for everybody: none of this version can be started by uid 65534")
    python, path = found
    with tempfile.TemporaryDirectory() as folder:  # pytest's own may be entered by its user only
        os.chown(folder, NOBODY, NOBODY)
        somebody = {"user": NOBODY, "group": NOBODY, "extra_groups": []}
        yield Path(folder), {"python": python, "env": environment(Path(folder), PYTHONPATH=path), **somebody}
