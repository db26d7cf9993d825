"""Resource limits that the kernel counts per process (getrlimit(2)), and the CPU clock that the zygote watches.

RLIMIT_DATA counts private writable memory, which is what a function allocates; RLIMIT_AS would also refuse what a
runtime merely reserves. What RLIMIT_DATA does not see (shared anonymous maps, memfd, grown pipes) seccomp refuses.
"""

from __future__ import annotations

import os
import resource
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeVar

    T = TypeVar("T")

__all__ = ["as_jail", "children_of", "cpu_clock", "data_bytes", "lower_other", "lower_own", "session_of", "tree_cpu"]

_STACK = 8 << 20
_TICK_NS = 1_000_000_000 // os.sysconf("SC_CLK_TCK")


def data_bytes(pid: int) -> int:
    """Return the private writable memory of a child in bytes, as RLIMIT_DATA counts it (VmData of proc_pid_status(5)).

    Read from outside: a jail has no /proc, and what it says of itself is not believed.
    """
    with open(f"/proc/{pid}/status", "rb") as status:
        for line in status:
            if line.startswith(b"VmData:"):
                return int(line.split()[1]) * 1024
    raise OSError(f"/proc/{pid}/status has no VmData")


def lower_own(*, file_handles: int, file_size: int, import_memory: int, addresses: int, tasks: int) -> None:
    """Set the limits under which a template imports; its calls inherit them.

    Args:
        addresses: bytes of address space. Wide, for runtimes that reserve: it bounds the page tables (1/512 of it),
            which no other limit counts.
        tasks: processes and threads of the uid, 0 for no limit of its own.
    """
    _lower(0, resource.RLIMIT_NOFILE, file_handles)
    _lower(0, resource.RLIMIT_FSIZE, file_size)
    _lower(0, resource.RLIMIT_DATA, import_memory)
    _lower(0, resource.RLIMIT_AS, addresses)
    if tasks:
        _lower(0, resource.RLIMIT_NPROC, tasks)
    _lower(0, resource.RLIMIT_STACK, _STACK)
    _lower(0, resource.RLIMIT_MEMLOCK, 0)
    _lower(0, resource.RLIMIT_MSGQUEUE, 0)
    _lower(0, resource.RLIMIT_SIGPENDING, 64)
    # 1 and not 0: core(5) says that a piped core_pattern ignores a limit of 0, and that 1 stops it.
    _lower(0, resource.RLIMIT_CORE, 1)


def lower_other(pid: int, identity: list[int] | None, values: dict[int, int]) -> None:
    """Lower limits of another process from outside (prlimit(2)): each RLIMIT_* and its value; see `as_jail`."""

    def work() -> None:
        for kind, value in values.items():
            _lower(pid, kind, value)

    as_jail(identity, work)


def as_jail(identity: list[int] | None, work: Callable[[], T]) -> T:
    """Do `work` with the ids of a jail, and keep root as the saved ones to come back to. The caller has one thread.

    As root without CAP_SYS_RESOURCE and CAP_SYS_PTRACE (a container) the kernel wants the caller's ids to be the
    target's before it shows or limits another process.

    Args:
        identity: uid and gid of the jail, or None when they are the caller's own.
    """
    if identity is None:
        return work()
    uid, gid = identity
    os.setresgid(gid, gid, 0)
    os.setresuid(uid, uid, 0)
    try:
        return work()
    finally:
        os.setresuid(0, 0, 0)
        os.setresgid(0, 0, 0)


def cpu_clock(pid: int) -> int:
    """Return the CPU time of a child in nanoseconds, from its clock (clock_getcpuclockid(3)).

    Raises:
        OSError: the process is gone.
    """
    return time.clock_gettime_ns((~pid << 3) | 2)


def children_of(pid: int) -> list[int]:
    """Return the children of a process, [] when it is gone (proc_pid_task(5))."""
    try:
        found = []
        for task in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{task}/children", "rb") as file:
                found += [int(word) for word in file.read().split()]
        return found
    except FileNotFoundError:
        if os.path.exists(f"/proc/{pid}/stat"):  # a kernel without CONFIG_PROC_CHILDREN
            return [int(name) for name in os.listdir("/proc") if name.isdigit() and _stat(int(name))[1:2] == [pid]]
    except ProcessLookupError:
        pass
    return []


def _stat(pid: int) -> list[int]:
    """Return the numbers of /proc/PID/stat after the name, with 0 for the state; [] when it is gone."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return [0, *(int(word) for word in file.read().rpartition(b")")[2].split()[1:])]
    except (FileNotFoundError, ProcessLookupError):
        return []


def session_of(pid: int) -> int:
    """Return the session of a process, 0 when it is gone."""
    return (_stat(pid) + [0] * 4)[3]


def tree_cpu(pid: int) -> int:
    """Return the CPU time in nanoseconds of a process, what it has reaped, and all that is below it.

    In a pid namespace of its own the tree is whole: orphans become children of its first process. What a process
    leaves unreaped on purpose (SIGCHLD ignored) is not in it.
    """
    fields = _stat(pid)
    reaped = sum(fields[13:15]) * _TICK_NS  # cutime, cstime
    return cpu_clock(pid) + reaped + sum(_branch_cpu(child) for child in children_of(pid))


def _branch_cpu(pid: int) -> int:
    try:
        return tree_cpu(pid)
    except OSError:  # it ended between two looks; its parent's reaped time has it at the next
        return 0


def _lower(pid: int, kind: int, value: int) -> None:
    # Never above what is there: a process without capabilities could not raise it, and must not.
    _, ceiling = resource.prlimit(pid, kind)
    if ceiling != resource.RLIM_INFINITY:
        value = min(value, ceiling)
    resource.prlimit(pid, kind, (value, value))
