"""Landlock: which paths a jail may open, and how. See landlock(7) and `Documentation/userspace-api/landlock.rst`.

The template takes one layer that allows the granted paths. Each call adds one more, which allows nothing new: two
processes in one domain may signal and trace each other, two in sibling domains may not.
"""

from __future__ import annotations

import os
import stat
import struct

from remit.jail import _syscall_unsafe as system
from remit.jail import _uapi

__all__ = ["EXECUTE", "LIST", "READ", "WRITE", "restrict", "sibling_layer"]

READ = _uapi.LANDLOCK_ACCESS_FS_READ_FILE | _uapi.LANDLOCK_ACCESS_FS_READ_DIR
LIST = _uapi.LANDLOCK_ACCESS_FS_READ_DIR
EXECUTE = _uapi.LANDLOCK_ACCESS_FS_EXECUTE
WRITE = (
    _uapi.LANDLOCK_ACCESS_FS_WRITE_FILE
    | _uapi.LANDLOCK_ACCESS_FS_TRUNCATE
    | _uapi.LANDLOCK_ACCESS_FS_MAKE_REG
    | _uapi.LANDLOCK_ACCESS_FS_MAKE_DIR
    | _uapi.LANDLOCK_ACCESS_FS_MAKE_SYM
    | _uapi.LANDLOCK_ACCESS_FS_REMOVE_FILE
    | _uapi.LANDLOCK_ACCESS_FS_REMOVE_DIR
    | _uapi.LANDLOCK_ACCESS_FS_REFER
)
_ON_FILES = (
    _uapi.LANDLOCK_ACCESS_FS_EXECUTE
    | _uapi.LANDLOCK_ACCESS_FS_WRITE_FILE
    | _uapi.LANDLOCK_ACCESS_FS_READ_FILE
    | _uapi.LANDLOCK_ACCESS_FS_TRUNCATE
    | _uapi.LANDLOCK_ACCESS_FS_IOCTL_DEV
)


def _handled(abi: int) -> tuple[int, int, int]:
    """Return all that this ABI can govern: (files, TCP, scopes)."""
    files = (1 << 13) - 1
    if abi >= 2:
        files |= _uapi.LANDLOCK_ACCESS_FS_REFER
    if abi >= 3:
        files |= _uapi.LANDLOCK_ACCESS_FS_TRUNCATE
    if abi >= 5:
        files |= _uapi.LANDLOCK_ACCESS_FS_IOCTL_DEV
    tcp = _uapi.LANDLOCK_ACCESS_NET_BIND_TCP | _uapi.LANDLOCK_ACCESS_NET_CONNECT_TCP if abi >= 4 else 0
    scopes = _uapi.LANDLOCK_SCOPE_ABSTRACT_UNIX_SOCKET | _uapi.LANDLOCK_SCOPE_SIGNAL if abi >= 6 else 0
    return files, tcp, scopes


def restrict(abi: int, paths: list[tuple[str, int]]) -> None:
    """Confine the calling thread to `paths`, each with its rights (`READ`, `WRITE`, `EXECUTE`, combined).

    Raises:
        OSError: a path is not there or leads through a symbolic link, or the kernel refuses. Nothing is confined then.
    """
    if abi == 0:  # the host has accepted that it is not there, or no plan with 0 would have been made
        return
    files, tcp, scopes = _handled(abi)
    ruleset = system.landlock_create(struct.pack("=QQQ", files, tcp, scopes)[: _size(abi)])
    try:
        for path, access in paths:
            descriptor = system.open_real(path)
            try:
                fits = files if stat.S_ISDIR(os.fstat(descriptor).st_mode) else files & _ON_FILES
                system.landlock_add_path(ruleset, access & fits, descriptor)
            finally:
                os.close(descriptor)
        system.landlock_restrict(ruleset)
    finally:
        os.close(ruleset)


def sibling_layer(abi: int) -> int:
    """Return a rule set, as a descriptor, that narrows nothing but makes whoever takes it a domain of its own."""
    if abi == 0:
        return -1
    if abi >= 6:
        return system.landlock_create(struct.pack("=QQQ", 0, 0, _handled(abi)[2])[: _size(abi)])
    # Without scopes a layer must govern something: FIFOs, which no grant allows in the template's layer either.
    return system.landlock_create(struct.pack("=Q", _uapi.LANDLOCK_ACCESS_FS_MAKE_FIFO))


def _size(abi: int) -> int:
    return 8 if abi < 4 else 16 if abi < 6 else 24
