"""Finds out what this kernel offers, by trying it in processes that then end."""

from __future__ import annotations

import os
import struct

from remit.jail import _syscall_unsafe as system
from remit.jail import _uapi, namespaces

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

__all__ = ["probe"]


def _bits(work: Callable[[], int]) -> int:
    """Run `work` in a fork and return its answer, a number below 128; 0 when it fails."""
    pid = os.fork()
    if pid == 0:
        answer = 0
        try:
            answer = work()
        finally:
            os._exit(answer)
    _, status = os.waitpid(pid, 0)
    return os.WEXITSTATUS(status) if os.WIFEXITED(status) else 0


_CAN_ROOT, _CAN_USERNS = 1, 2


def _try_namespaces() -> int:
    """Return what works of namespaces, by doing it in a process that then ends."""
    namespaces.enter()

    def first() -> int:
        namespaces.mount_proc()
        root = os.geteuid() == 0
        folder = os.path.dirname(os.__file__)
        namespaces.new_root(read_only=[folder], writable=[], granted=set(), hide=[], devices=[], links=[], owner=None)
        if root:
            os.setresuid(65534, 65534, 65534)
        system.prctl(_uapi.PR_SET_NO_NEW_PRIVS, 1)
        system.drop_capabilities()
        return _CAN_ROOT | _bits(unshare)

    def unshare() -> int:
        system.unshare(_uapi.CLONE_NEWUSER | _uapi.CLONE_NEWPID | _uapi.CLONE_NEWNS)
        return _CAN_USERNS

    return _bits(first)


def _try_listener() -> int:
    system.prctl(_uapi.PR_SET_NO_NEW_PRIVS, 1)
    allow = struct.pack("=HBBI", 0x06, 0, 0, _uapi.SECCOMP_RET_ALLOW)
    system.seccomp_filter(allow, (1 << 3) | _uapi.SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV)
    return 1


def probe(simulate: dict[str, Any]) -> dict[str, Any]:
    """Return what this kernel offers. `simulate` takes features away, for tests.

    The stack of the calling process, and so of all that is forked from it, is sealed where that is possible.
    """
    abi = min(system.landlock_abi(), simulate.get("landlock_abi", 1 << 10))
    spaces = _bits(_try_namespaces) if simulate.get("namespaces", True) else 0
    listener = _bits(_try_listener) if simulate.get("listener", True) else 0
    return {
        "root": os.geteuid() == 0,
        "landlock_abi": abi,
        "namespaces": bool(spaces & _CAN_ROOT),
        "call_userns": bool(spaces & _CAN_USERNS),
        "listener": bool(listener),
        "stack_sealed": simulate.get("stack_sealed", True) and _seal_stack(),
        "cores": os.cpu_count() or 1,
        "machine": os.uname().machine,
        "kernel": os.uname().release,
    }


def _seal_stack() -> bool:
    """Seal the stack: it still grows to its limit by use, but nobody can enlarge or move it (mseal(2))."""
    with open("/proc/self/maps", "rb") as maps:
        for line in maps:
            if line.rstrip().endswith(b"[stack]"):
                low, _, high = line.split()[0].partition(b"-")
                try:
                    system.mseal(int(low, 16), int(high, 16) - int(low, 16))
                except OSError:
                    return False
                return True
    return False
