"""What attacks use: raw system calls. Its text stands before theirs, in the jail and in the plain process."""

from __future__ import annotations

import ctypes
import errno
import os
import signal
import socket
import struct
import sys
import time

from remit.jail import _uapi

__all__ = ["NR", "call", "ctypes", "errno", "mapped", "os", "signal", "socket", "struct", "sys", "time", "touch"]

NR = _uapi.calls(os.uname().machine)
_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]


def call(name, *arguments):
    number = name if isinstance(name, int) else NR[name]
    words = [ctypes.c_long(word) if isinstance(word, int) else word for word in arguments]
    result = _libc.syscall(ctypes.c_long(number), *words)
    if result < 0:
        raise OSError(ctypes.get_errno(), str(name))
    return result


def mapped(size, protection=3, flags=0x22, descriptor=-1):
    at = _libc.mmap(None, size, protection, flags, descriptor, 0)
    if at in (None, ctypes.c_void_p(-1).value):
        raise MemoryError("mmap")
    return at


def touch(at, size):
    ctypes.memset(at, 1, size)
    return size
