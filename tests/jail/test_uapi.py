from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from remit.jail import _uapi

ROOT = Path(__file__).resolve().parents[2]


def test_the_constants_are_those_of_the_headers() -> None:
    if not Path("/usr/include/linux/landlock.h").exists():
        pytest.skip("needs a kernel without headers: they are checked where they are installed")
    script = [sys.executable, str(ROOT / "scripts/generate_uapi.py"), "--check"]
    done = subprocess.run(script, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_the_tables_are_tables(machine: str) -> None:
    calls = _uapi.calls(machine)
    assert len(calls) > 300
    assert len(set(calls.values())) == len(calls)
    assert all(re.fullmatch(r"[a-z0-9_]+", name) for name in calls)
    # From 424 on both machines have the same numbers.
    other = _uapi.calls("aarch64" if machine == "x86_64" else "x86_64")
    assert {n: c for n, c in calls.items() if c >= 424} == {n: c for n, c in other.items() if c >= 424}


def test_a_number_of_this_machine() -> None:
    assert _uapi.calls(os.uname().machine)["getpid"] == {"x86_64": 39, "aarch64": 172}[os.uname().machine]
