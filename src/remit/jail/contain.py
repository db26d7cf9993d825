"""The irreversible steps that make a process a jail, in order. The kernel's answer checks each; none is optional.

`template` runs in a fresh fork of the zygote, before any foreign code; `call` in each fork of a template. What a step
needs (filters, paths, ids) was computed in the host: nothing is decided here.
"""

from __future__ import annotations

import errno
import os
import signal
from binascii import a2b_base64

from remit.jail import _syscall_unsafe as system
from remit.jail import _uapi, landlock, limits, namespaces

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from remit.jail.spec import Plan

__all__ = ["call", "template"]

_NEW_LISTENER = 1 << 3
_PID_PLACE = (0x7E57AB1E).to_bytes(4, "little")  # seccomp.PID_PLACE, without importing the compiler here
_TEMPLATE_HANDLES = 64  # an import opens some, and each call's come through it
CHANNEL = 3  # the descriptor of a call's socket; 0, 1 and 2 are what they always are


def template(plan: Plan, parent: int, hand_over: Callable[[int], None]) -> None:
    """Put every wall on this process. `hand_over` takes the listener of refused calls out before foreign code runs."""
    os.setsid()
    _die_with(parent)
    _take_root(plan)
    os.chdir("/")
    os.umask(0o077)
    limits.lower_own(
        file_handles=max(plan["file_handles"] + CHANNEL + 1, _TEMPLATE_HANDLES),
        file_size=plan["file_size"],
        import_memory=plan["import_memory"],
        addresses=plan["addresses"],
        tasks=plan["stray"],
    )
    _become(plan["identity"])
    system.prctl(_uapi.PR_SET_NO_NEW_PRIVS, 1)
    system.prctl(_uapi.PR_SET_DUMPABLE, 1)  # a change of uid cleared it; the broker reads addresses from outside
    _die_with(parent)  # a change of uid cleared this too
    _try_grants(plan)
    landlock.restrict(plan["abi"], plan["paths"])
    _filter(plan, hand_over)


def call(plan: Plan, parent: int, tail: bytes, sibling_layer: int, descriptors: list[int]) -> None:
    """Put the last walls on a call: its own domain, its own filter, and nothing open but 0, 1, 2 and its channel."""
    _die_with(parent)
    if sibling_layer >= 0:
        system.landlock_restrict(sibling_layer)
    if plan["call_userns"]:
        system.drop_capabilities()  # a new user namespace came with all of them
    _keep_only(descriptors)
    if tail:
        system.seccomp_filter(tail.replace(_PID_PLACE, os.getpid().to_bytes(4, "little")))


def _die_with(parent: int) -> None:
    """Have the kernel kill this process when the zygote ends, and make sure that it has not ended already."""
    system.prctl(_uapi.PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() not in (parent, 0):  # 0: the parent is outside this pid namespace
        os._exit(1)


def _take_root(plan: Plan) -> None:
    if plan["own_mounts"]:
        namespaces.new_root(
            read_only=plan["read_only"],
            writable=plan["writable"],
            granted={path for path, _ in plan["granted"]},
            hide=plan["hide"],
            devices=plan["devices"],
            links=plan["links"],
            owner=plan["identity"],
        )


def _become(identity: list[int] | None) -> None:
    """Be an unprivileged user without capabilities."""
    if identity is not None:
        uid, gid = identity
        os.setgroups([])
        os.setresgid(gid, gid, gid)
        os.setresuid(uid, uid, uid)
    system.prctl(_uapi.PR_CAP_AMBIENT, _uapi.PR_CAP_AMBIENT_CLEAR_ALL)
    system.drop_capabilities()


def _try_grants(plan: Plan) -> None:
    """A grant that file permissions take back is an error now, not a surprise in the middle of a call."""
    for path, mode in plan["granted"]:
        if not os.access(path, mode):
            raise OSError(errno.EACCES, f"uid {os.getuid()}, as which the jail runs, may not use this grant", path)
    os.chdir(plan["cwd"])


def _filter(plan: Plan, hand_over: Callable[[int], None]) -> None:
    program = a2b_base64(plan["filter"])
    if not plan["notify"]:
        system.seccomp_filter(program)
        return
    listener = system.seccomp_filter(program, _NEW_LISTENER | _uapi.SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV)
    hand_over(listener)
    os.close(listener)


def _keep_only(descriptors: list[int]) -> None:
    """Put (channel, stdin, stdout, stderr) in their places and close all else; -1 leaves what the template has."""
    channel, *stdio = descriptors
    for place, descriptor in enumerate(stdio):
        if descriptor >= 0:
            os.dup2(descriptor, place)
    if channel != CHANNEL:
        os.dup2(channel, CHANNEL, inheritable=False)
    system.close_range(CHANNEL + 1)
