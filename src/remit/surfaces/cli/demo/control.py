"""The positive control: each attack in a plain process, without monitor and jail, bounded and harmless.

A wall is only shown to stop an attack that would succeed without it.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Mapping

from remit.surfaces.cli.demo.judge import PlainRun
from remit.surfaces.cli.demo.witness import ProcessWatch

__all__ = ["run_plain"]

_LONGEST_SECONDS = 15.0
_MOST_OUTPUT = 1 << 20


def run_plain(code: str, environment: Mapping[str, str]) -> PlainRun:
    """Run `code` in a Python process of its own, as this user, and wait for its end; at most 15 seconds.

    Args:
        code: Python text.
        environment: its variables.
    """
    began = time.monotonic_ns()
    process = subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", code],
        env=dict(environment),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    guard = threading.Timer(_LONGEST_SECONDS, process.kill)
    guard.start()
    try:
        with ProcessWatch(process.pid, 0) as watch:
            output = _all_of(process)
            _, status, usage = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
    finally:
        guard.cancel()
    return PlainRun(
        output=output.decode("utf-8", "replace"),
        exit_status=process.returncode,
        elapsed_ms=(time.monotonic_ns() - began) / 1e6,
        cpu_ms=(usage.ru_utime + usage.ru_stime) * 1e3,
        peak_memory=usage.ru_maxrss * 1024,
        strangers=len(watch.strangers),
        left=watch.left(),
    )


def _all_of(process: subprocess.Popen[bytes]) -> bytes:
    """What it writes until it, and whoever has its output open, has ended; the first MiB is kept."""
    kept = b""
    if process.stdout is not None:
        with process.stdout as stream:
            while data := stream.read(1 << 16):
                kept = (kept + data)[:_MOST_OUTPUT]
    return kept
