"""The supervisor's side of seccomp user notification: hear a refused call, say what it was, refuse it.

See seccomp_unotify(2). What is read from a jail's memory is only a word in an event, so it does not matter that the
jail can change it. The one call that is let go on is the clone by which a template forks: its flags are in a register.
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct
from dataclasses import dataclass

from remit.jail import _uapi

__all__ = ["Notice", "answer", "let_go_on", "names_of", "receive"]

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
    """A system call that waits for an answer: the kernel's id for it, the thread, the name, its arguments.

    `group` and `resource` are looked up when they are asked for, which must be before the answer.
    """

    id: int
    tid: int
    what: str
    arguments: tuple[int, ...] = ()

    @property
    def group(self) -> tuple[int, ...]:
        """The thread group's pid as seen from here and inwards, one per pid namespace (proc_pid_status(5))."""
        return _group(self.tid)

    @property
    def resource(self) -> str:
        """What it was tried upon, as far as its arguments tell."""
        return _resource(self.tid, self.what, self.arguments)


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
    return Notice(number, tid, name, tuple(arguments))


def answer(listener: int, notice: Notice) -> bool:
    """Refuse the call. False when the caller died meanwhile: what was read by its pid may be another's then."""
    refusal = errno.EACCES if notice.what in _LOOK_LIKE_NO_PERMISSION else errno.EPERM
    return _reply(listener, _ANSWER.pack(notice.id, 0, -refusal, 0))


def let_go_on(listener: int, notice: Notice) -> bool:
    """Have the kernel run the call. Only safe where all that matters is in registers, as clone's flags are."""
    return _reply(listener, _ANSWER.pack(notice.id, 0, 0, _uapi.SECCOMP_USER_NOTIF_FLAG_CONTINUE))


def _reply(listener: int, answer: bytes) -> bool:
    try:
        fcntl.ioctl(listener, _SEND, answer)
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


def _resource(tid: int, name: str, arguments: tuple[int, ...]) -> str:
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
