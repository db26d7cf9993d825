"""Resource limits that the kernel counts per process (getrlimit(2)), and the CPU clock that the zygote watches.

RLIMIT_DATA counts private writable memory, which is what a function allocates; RLIMIT_AS would also refuse what a
runtime merely reserves. What RLIMIT_DATA does not see (shared anonymous maps, memfd, grown pipes) seccomp refuses.
"""

from __future__ import annotations

import os
import resource
import time

__all__ = ["cpu_clock", "data_bytes", "lower_other", "lower_own"]

_STACK = 8 << 20


def data_bytes(pid: int) -> int:
    """Return the private writable memory of a child in bytes, as RLIMIT_DATA counts it (VmData of proc_pid_status(5)).

    Read from outside: a jail has no /proc, and what it says of itself is not believed.
    """
    with open(f"/proc/{pid}/status", "rb") as status:
        for line in status:
            if line.startswith(b"VmData:"):
                return int(line.split()[1]) * 1024
    raise OSError(f"/proc/{pid}/status has no VmData")


def lower_own(*, file_handles: int, file_size: int, import_memory: int) -> None:
    """Set the limits under which a template imports (a count, bytes, bytes); its calls inherit them."""
    _lower(0, resource.RLIMIT_NOFILE, file_handles)
    _lower(0, resource.RLIMIT_FSIZE, file_size)
    _lower(0, resource.RLIMIT_DATA, import_memory)
    _lower(0, resource.RLIMIT_STACK, _STACK)
    _lower(0, resource.RLIMIT_MEMLOCK, 0)
    _lower(0, resource.RLIMIT_MSGQUEUE, 0)
    _lower(0, resource.RLIMIT_SIGPENDING, 64)
    # 1 and not 0: core(5) says that a piped core_pattern ignores a limit of 0, and that 1 stops it.
    _lower(0, resource.RLIMIT_CORE, 1)


def lower_other(pid: int, identity: list[int] | None, values: dict[int, int]) -> None:
    """Lower limits of another process from outside (prlimit(2)): the value of each RLIMIT_*.

    As root without CAP_SYS_RESOURCE (a container) the kernel wants the caller's real ids to be the target's, so the
    zygote, which has one thread, takes them for a moment and keeps root as its saved ids.

    Args:
        identity: uid and gid of the target, or None when they are the caller's own.
    """
    if identity is not None:
        uid, gid = identity
        os.setresgid(gid, gid, 0)
        os.setresuid(uid, uid, 0)
    try:
        for kind, value in values.items():
            _lower(pid, kind, value)
    finally:
        if identity is not None:
            os.setresuid(0, 0, 0)
            os.setresgid(0, 0, 0)


def cpu_clock(pid: int) -> int:
    """Return the CPU time of a child in nanoseconds, from its clock (clock_getcpuclockid(3)).

    Raises:
        OSError: the process is gone.
    """
    return time.clock_gettime_ns((~pid << 3) | 2)


def _lower(pid: int, kind: int, value: int) -> None:
    # Never above what is there: a process without capabilities could not raise it, and must not.
    _, ceiling = resource.prlimit(pid, kind)
    if ceiling != resource.RLIM_INFINITY:
        value = min(value, ceiling)
    resource.prlimit(pid, kind, (value, value))
