from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from remit.jail import limits


@pytest.fixture
def sleeper() -> Iterator[int]:
    process = subprocess.Popen(["sleep", "60"])
    yield process.pid
    process.kill()
    process.wait()


def test_a_limit_is_lowered_from_outside_and_never_raised(sleeper: int) -> None:
    limits.lower_other(sleeper, None, {resource.RLIMIT_NOFILE: 50})
    assert resource.prlimit(sleeper, resource.RLIMIT_NOFILE) == (50, 50)
    limits.lower_other(sleeper, None, {resource.RLIMIT_NOFILE: 60})
    assert resource.prlimit(sleeper, resource.RLIMIT_NOFILE) == (50, 50)


def test_private_memory_is_what_the_kernel_counts() -> None:
    before = limits.data_bytes(os.getpid())
    kept = bytearray(32 << 20)
    assert limits.data_bytes(os.getpid()) - before >= 32 << 20
    del kept


def test_the_clock_of_a_process_counts_what_it_uses(sleeper: int) -> None:
    assert limits.cpu_clock(sleeper) < 1_000_000_000
    before, end = limits.cpu_clock(os.getpid()), time.process_time() + 0.05
    while time.process_time() < end:
        pass
    assert limits.cpu_clock(os.getpid()) - before >= 40_000_000


def test_a_process_that_is_gone_has_no_clock_and_no_children() -> None:
    process = subprocess.Popen(["true"])
    process.wait()
    with pytest.raises(OSError):
        limits.cpu_clock(process.pid)
    assert limits.children_of(process.pid) == []
    assert limits.session_of(process.pid) == 0


def test_children_and_sessions_are_found(sleeper: int) -> None:
    assert sleeper in limits.children_of(os.getpid())
    assert limits.session_of(sleeper) == os.getsid(0)


TREE = """
import os, sys, time
def burn(seconds):
    end = time.process_time() + seconds
    while time.process_time() < end: pass
if os.fork() == 0:
    if os.fork() == 0:
        burn(0.2); print("x", flush=True); time.sleep(60)
    burn(0.2); print("x", flush=True); time.sleep(60)
gone = os.fork()
if gone == 0:
    burn(0.2); os._exit(0)
os.waitpid(gone, 0)
print("x", flush=True)
time.sleep(60)
"""


def test_the_clock_of_a_tree_counts_children_and_who_was_reaped() -> None:
    process = subprocess.Popen([sys.executable, "-c", TREE], stdout=subprocess.PIPE, start_new_session=True)
    try:
        assert process.stdout is not None
        for _ in range(3):
            process.stdout.readline()
        assert limits.tree_cpu(process.pid) >= 550_000_000
        assert limits.cpu_clock(process.pid) < 400_000_000
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


def test_as_jail_takes_the_ids_and_gives_them_back() -> None:
    if os.getuid() != 0:
        assert limits.as_jail(None, os.geteuid) == os.geteuid()
        return
    assert limits.as_jail([2_000_000_001, 2_000_000_002], lambda: (os.getuid(), os.getegid())) == (
        2_000_000_001,
        2_000_000_002,
    )
    assert os.getresuid() == (0, 0, 0)
    assert os.getresgid() == (0, 0, 0)
    with pytest.raises(ZeroDivisionError):
        limits.as_jail([2_000_000_001, 2_000_000_002], lambda: 1 // 0)
    assert os.getresuid() == (0, 0, 0)
