"""Raw system calls: the only file of remit that imports `ctypes`.

Each function is one system call (or one call of the C library) and raises OSError with the kernel's errno. Nothing
here decides anything. Sources: the section 2 man pages of the same names, and `Documentation/userspace-api`.
"""

from __future__ import annotations

import ctypes
import os
import struct

from remit.jail import _uapi

__all__ = [
    "clone",
    "close_range",
    "default_thread_stack",
    "drop_capabilities",
    "fsconfig_set",
    "fsmount",
    "fsopen",
    "landlock_abi",
    "landlock_add_path",
    "landlock_create",
    "landlock_restrict",
    "mount",
    "mount_setattr",
    "move_mount",
    "mseal",
    "open_real",
    "open_tree",
    "pivot_root",
    "prctl",
    "seccomp_filter",
    "setns",
    "umount_detach",
    "unshare",
]

_MACHINE = os.uname().machine
_NR = _uapi.calls(_MACHINE) if _MACHINE in ("x86_64", "aarch64") else {}
_libc = ctypes.CDLL(None, use_errno=True)
# clone must keep the GIL: in the child the one thread that exists has to be the one that holds it.
_libc_with_gil = ctypes.PyDLL(None, use_errno=True)

AT_FDCWD = -100
_LINUX_CAPABILITY_VERSION_3 = 0x20080522


def _call(name: str, *arguments: int | bytes | ctypes.Array[ctypes.c_char] | None) -> int:
    words = [ctypes.c_long(word) if isinstance(word, int) else word for word in arguments]
    result: int = _libc.syscall(ctypes.c_long(_NR[name]), *words)
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")
    return result


_libc.syscall.restype = ctypes.c_long
_libc_with_gil.syscall.restype = ctypes.c_long


def clone(flags: int) -> int:
    """Fork the calling thread by a raw clone(2): the new process's pid in the parent, 0 in the child.

    The C library's `fork` cannot say CLONE_PARENT or ask for namespaces. A raw clone skips Python's hooks, so they
    are called here as `os.fork` does. The caller must be single-threaded.
    """
    api = ctypes.pythonapi
    api.PyOS_BeforeFork()
    result: int = _libc_with_gil.syscall(
        ctypes.c_long(_NR["clone"]),
        ctypes.c_ulong(flags),
        ctypes.c_long(0),
        ctypes.c_long(0),
        ctypes.c_long(0),
        ctypes.c_long(0),
    )
    number = ctypes.get_errno() if result < 0 else 0
    if result == 0:
        api.PyOS_AfterFork_Child()
        return 0
    api.PyOS_AfterFork_Parent()
    if result < 0:
        raise OSError(number, f"clone: {os.strerror(number)}")
    return result


def prctl(option: int, a: int = 0, b: int = 0, c: int = 0, d: int = 0) -> int:
    """prctl(2)."""
    return _call("prctl", option, a, b, c, d)


def drop_capabilities() -> None:
    """Empty the effective, permitted and inheritable sets (capset(2), version 3)."""
    header = struct.pack("=Ii", _LINUX_CAPABILITY_VERSION_3, 0)
    _call("capset", header, bytes(24))


def close_range(first: int, last: int = 0xFFFFFFFF) -> None:
    """close_range(2): close every descriptor from `first` to `last`."""
    _call("close_range", first, last, 0)


def unshare(flags: int) -> None:
    """unshare(2)."""
    _call("unshare", flags)


def setns(descriptor: int, kind: int) -> None:
    """setns(2)."""
    _call("setns", descriptor, kind)


def default_thread_stack(size: int) -> None:
    """Set the stack size in bytes of threads that ask for none (pthread_setattr_default_np(3)), where libc has it."""
    if not hasattr(_libc, "pthread_setattr_default_np"):  # musl's default is 128 KiB already
        return
    attributes = ctypes.create_string_buffer(256)
    _libc.pthread_attr_init(attributes)
    _libc.pthread_attr_setstacksize(attributes, ctypes.c_size_t(size))
    _libc.pthread_setattr_default_np(attributes)
    _libc.pthread_attr_destroy(attributes)


def seccomp_filter(program: bytes, flags: int = 0) -> int:
    """Install a BPF program (seccomp(2), SECCOMP_SET_MODE_FILTER); returns the listener with NEW_LISTENER, else 0."""
    code = ctypes.create_string_buffer(program, len(program))
    fprog = struct.pack("@HxxxxxxP", len(program) // 8, ctypes.addressof(code))
    return _call("seccomp", _uapi.SECCOMP_SET_MODE_FILTER, flags, fprog)


def landlock_abi() -> int:
    """Return the kernel's Landlock ABI, 0 where there is none (landlock(7))."""
    try:
        return _call("landlock_create_ruleset", None, 0, _uapi.LANDLOCK_CREATE_RULESET_VERSION)
    except OSError:
        return 0


def landlock_create(attributes: bytes) -> int:
    """landlock_create_ruleset(2): a descriptor of a new rule set."""
    return _call("landlock_create_ruleset", attributes, len(attributes), 0)


def landlock_add_path(ruleset: int, access: int, descriptor: int) -> None:
    """landlock_add_rule(2) with LANDLOCK_RULE_PATH_BENEATH."""
    _call("landlock_add_rule", ruleset, 1, struct.pack("=Qi", access, descriptor), 0)


def landlock_restrict(ruleset: int) -> None:
    """landlock_restrict_self(2)."""
    _call("landlock_restrict_self", ruleset, 0)


def mount(source: str, target: str, kind: str, flags: int, data: str = "") -> None:
    """mount(2)."""
    _call("mount", source.encode(), os.fsencode(target), kind.encode(), flags, data.encode())


def umount_detach(target: str) -> None:
    """umount2(2) with MNT_DETACH."""
    _call("umount2", os.fsencode(target), 2)


def pivot_root(new: str, old: str) -> None:
    """pivot_root(2)."""
    _call("pivot_root", os.fsencode(new), os.fsencode(old))


def mseal(address: int, length: int) -> None:
    """mseal(2): nobody moves, grows, unmaps or reprotects this range again. Linux 6.10."""
    _call("mseal", address, length, 0)


def open_real(path: str) -> int:
    """openat2(2) with O_PATH and RESOLVE_NO_SYMLINKS: ELOOP where somebody has put a link since `path` was resolved."""
    how = struct.pack("=QQQ", os.O_PATH | os.O_CLOEXEC, 0, 0x04)
    try:
        return _call("openat2", AT_FDCWD, os.fsencode(path), how, len(how))
    except OSError as error:
        raise OSError(error.errno, os.strerror(error.errno or 0), path) from None


def open_tree(descriptor: int, *, recursive: bool = True) -> int:
    """open_tree(2) with OPEN_TREE_CLONE: a detached copy of the mount at `descriptor`, close-on-exec."""
    flags = 1 | os.O_CLOEXEC | _uapi.AT_EMPTY_PATH | (_uapi.AT_RECURSIVE if recursive else 0)
    return _call("open_tree", descriptor, b"", flags)


def mount_setattr(descriptor: int, attributes: int, *, userns: int = 0, recursive: bool = True) -> None:
    """mount_setattr(2): set `attributes` (MOUNT_ATTR_*) on the tree at `descriptor`."""
    flags = _uapi.AT_EMPTY_PATH | (_uapi.AT_RECURSIVE if recursive else 0)
    value = struct.pack("=QQQQ", attributes, 0, 0, userns)
    _call("mount_setattr", descriptor, b"", flags, value, len(value))


def move_mount(descriptor: int, target: str) -> None:
    """move_mount(2): attach the detached mount at `target`."""
    _call("move_mount", descriptor, b"", AT_FDCWD, os.fsencode(target), 4)


def fsopen(kind: str) -> int:
    """fsopen(2): a context for a new file system, close-on-exec."""
    return _call("fsopen", kind.encode(), 1)


def fsconfig_set(context: int, key: str, value: str | None) -> None:
    """fsconfig(2): set one option, or create the file system when `value` is None and `key` is ""."""
    if value is None:
        _call("fsconfig", context, 6, None, None, 0)
    else:
        _call("fsconfig", context, 1, key.encode(), value.encode(), 0)


def fsmount(context: int, attributes: int) -> int:
    """fsmount(2): a descriptor of the detached mount, close-on-exec."""
    return _call("fsmount", context, 1, attributes)
