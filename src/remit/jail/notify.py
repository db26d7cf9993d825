"""The supervisor's side of seccomp user notification: hear a refused call, say what it was, refuse it.

See seccomp_unotify(2). Nothing is ever allowed here, so nothing that the jail can change while it is read matters:
what is read from its memory is only a word in an event.
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct
from dataclasses import dataclass

from remit.jail import _uapi

__all__ = ["Notice", "answer", "receive"]

_NOTICE = struct.Struct("=QIIiIQ6Q")
_ANSWER = struct.Struct("=QqiI")
_RECEIVE = 0xC0502100  # SECCOMP_IOCTL_NOTIF_RECV
_SEND = 0xC0182101  # SECCOMP_IOCTL_NOTIF_SEND
_FAMILIES = {
    1: "AF_UNIX",
    2: "AF_INET",
    10: "AF_INET6",
    16: "AF_NETLINK",
    17: "AF_PACKET",
    38: "AF_ALG",
    40: "AF_VSOCK",
}
_KINDS = {1: "SOCK_STREAM", 2: "SOCK_DGRAM", 3: "SOCK_RAW", 5: "SOCK_SEQPACKET"}
_LOOK_LIKE_NO_PERMISSION = frozenset({"socket", "connect", "bind", "listen", "sendto", "execve", "execveat"})


@dataclass(frozen=True, slots=True)
class Notice:
    """A refused system call: the kernel's id for it, the thread, its thread group, the name, on what."""

    id: int
    tid: int
    group: tuple[int, ...]
    what: str
    resource: str


def receive(listener: int, names: dict[int, str]) -> Notice | None:
    """Take one notification; None when the caller died meanwhile."""
    buffer = bytearray(_NOTICE.size)
    try:
        fcntl.ioctl(listener, _RECEIVE, buffer)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.EINTR):
            return None
        raise
    number, tid, _, call, _, _, *arguments = _NOTICE.unpack(buffer)
    name = names.get(call, f"syscall {call}")
    return Notice(number, tid, _group(tid), name, _resource(tid, name, arguments))


def answer(listener: int, notice: Notice) -> bool:
    """Refuse the call. False when the caller died meanwhile: then its pid, and what was read by it, may be another's."""
    refusal = errno.EACCES if notice.what in _LOOK_LIKE_NO_PERMISSION else errno.EPERM
    try:
        fcntl.ioctl(listener, _SEND, _ANSWER.pack(notice.id, 0, -refusal, 0))
    except OSError as error:
        if error.errno != errno.ENOENT:
            raise
        return False
    return True


def _group(tid: int) -> tuple[int, ...]:
    """Return the thread group's pid as seen from here and inwards, one per pid namespace (proc_pid_status(5))."""
    try:
        with open(f"/proc/{tid}/status", "rb") as status:
            for line in status:
                if line.startswith(b"NStgid:"):
                    return tuple(int(word) for word in line.split()[1:])
    except (OSError, ValueError):
        pass
    return ()


def _resource(tid: int, name: str, arguments: list[int]) -> str:
    if name == "socket":
        family, kind = arguments[0] & 0xFFFFFFFF, arguments[1] & 0xF
        return f"{_FAMILIES.get(family, family)} {_KINDS.get(kind, kind)}"
    if name in ("execve", "open_tree", "umount2", "chroot"):
        return _text_at(tid, arguments[1 if name == "open_tree" else 0])
    if name in ("execveat", "mount", "open_by_handle_at"):
        return _text_at(tid, arguments[1])
    return ""


def _text_at(tid: int, address: int) -> str:
    """Return a short printable text from the caller's memory, "" where it cannot be read."""
    try:
        with open(f"/proc/{tid}/mem", "rb", buffering=0) as memory:
            data = os.pread(memory.fileno(), 256, address)
    except (OSError, OverflowError, ValueError):
        return ""
    text = data.split(b"\0", 1)[0].decode("utf-8", "replace")
    return "".join(letter if letter.isprintable() else "?" for letter in text)


def names_of(machine: str) -> dict[int, str]:
    """Return the names of system calls by number."""
    return {number: name for name, number in _uapi.calls(machine).items()}
