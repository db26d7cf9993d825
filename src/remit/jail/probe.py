"""What this kernel offers, and which guarantees follow from it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ["GUARANTEES", "Features", "Held", "guarantees"]

GUARANTEES: Mapping[str, str] = {
    "files": "G1: nothing outside the grants can be read, written or listed",
    "file_metadata": "G2: nothing outside the grants can be seen to exist",
    "network": "G3: no connection leaves but those that the broker makes",
    "processes": "G4: no process but those allowed; none outside is reached; none outlives the call",
    "memory": "G5: memory beyond the limit cannot be had",
    "cpu": "G6: CPU time beyond the limit ends the call",
    "time": "G7: the deadline ends the call, whatever the host does",
    "handles": "G8: open files, file sizes and output are bounded",
    "threads": "G9: threads are bounded",
    "clean_start": "G10: no memory, secret, variable, descriptor or randomness of another call or of the host",
    "kernel_surface": "G11: only the system calls that plain programs need",
    "channel": "G12: what a jail sends can neither run code in the host nor harm the next call",
    "refusals_seen": "G13: attempts to get out are seen by the host, as the kernel saw them",
    "scratch_quota": "G14: a private scratch is bounded in bytes and files, and gone after the call",
}


@dataclass(frozen=True, slots=True)
class Features:
    """What the zygote found by trying.

    Attributes:
        supported: whether this is Linux on a machine that the filters know.
        root: whether the host is root.
        landlock_abi: Landlock's ABI, 0 for none.
        namespaces: mount, pid, network, IPC and UTS namespaces, and a new root, can be made.
        call_userns: an unprivileged process can make a user namespace: each call gets its own.
        stack_sealed: a process can seal its stack (mseal(2)), so that mremap(2) need not be refused.
        listener: seccomp user notification works (False inside another sandbox that uses it).
        cores, machine, kernel: from sysconf(3) and uname(2).
    """

    supported: bool = False
    root: bool = False
    landlock_abi: int = 0
    namespaces: bool = False
    call_userns: bool = False
    listener: bool = False
    stack_sealed: bool = False
    cores: int = 1
    machine: str = ""
    kernel: str = ""

    @classmethod
    def of(cls, found: Mapping[str, Any]) -> Features:
        """Make it from the zygote's answer."""
        return cls(supported=True, **found)

    @property
    def scoped(self) -> bool:
        """Whether Landlock keeps a domain's signals to itself (ABI 6)."""
        return self.landlock_abi >= 6

    @property
    def tier(self) -> str:
        """The mechanisms in use, in one line: it stands in every outcome."""
        parts = ["seccomp", "rlimits"]
        if self.landlock_abi:
            parts.insert(0, f"landlock{self.landlock_abi}")
        if self.listener:
            parts.append("notify")
        if self.namespaces:
            parts.append("namespaces")
        if self.call_userns:
            parts.append("userns")
        return "+".join(parts)


@dataclass(frozen=True, slots=True)
class Held:
    """Whether a guarantee holds here; if not, what is missing and what to do about it."""

    held: bool
    missing: str = ""
    remedy: str = ""


_YES = Held(True)
_LANDLOCK = Held(
    False,
    "landlock",
    "use Linux 5.13 or newer with `landlock` in its lsm= list (see /sys/kernel/security/lsm)",
)
_NAMESPACES = (
    "allow unprivileged user namespaces: `sysctl user.max_user_namespaces=15000`, on Ubuntu 24.04 also "
    "`sysctl kernel.apparmor_restrict_unprivileged_userns=0`, in a container `--security-opt seccomp=unconfined`"
)


def guarantees(features: Features) -> dict[str, Held]:
    """Return each guarantee by name with whether it holds on a machine with `features`."""
    if not features.supported:
        nothing = Held(
            False,
            "Linux on x86_64 or aarch64",
            'run it in a container: `docker run --rm -it -v "$PWD":/app -w /app python:3.13 '
            "sh -c 'pip install remit && remit doctor'`",
        )
        return dict.fromkeys(GUARANTEES, nothing)
    held = dict.fromkeys(GUARANTEES, _YES)
    if features.landlock_abi == 0:
        held["files"] = held["processes"] = held["clean_start"] = _LANDLOCK
    if not features.namespaces:
        held["file_metadata"] = Held(False, "mount namespaces", _NAMESPACES)
        held["scratch_quota"] = Held(False, "mount namespaces", _NAMESPACES)
    if features.namespaces and not features.call_userns:
        held["scratch_quota"] = Held(False, "user namespaces", _NAMESPACES)
    if not features.listener:
        held["refusals_seen"] = Held(
            False,
            "seccomp user notification",
            "another sandbox around this process listens already (EBUSY): run outside it, or accept it by name",
        )
    return held
