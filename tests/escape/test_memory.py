"""G5: memory beyond the limit cannot be had. 230 of 256 MiB succeed and 270 fail, in each way there is."""

from __future__ import annotations

import pytest

from tests.escape.harness import Attacks
from tests.escape.prelude import call, ctypes, mapped, os, touch

attack = Attacks(__file__)
SPEC = {"memory": 64 << 20, "cpu": 4_000}


@attack(spec=SPEC)
def bytearray_at_once(bait):
    return len(bytearray(80 << 20))


@attack(spec=SPEC, ends="limit memory")
def bytearrays_without_end(bait):
    kept = []
    while len(kept) < 16:
        kept.append(bytearray(10 << 20))
    return len(kept)


@attack(spec=SPEC)  # an interpreter that runs out of memory in an odd place raises SystemError
def small_objects_without_end(bait):
    kept = []
    while len(kept) < 1_200_000:
        kept.append([None] * 8)
    return len(kept)


@attack(spec=SPEC)
def private_map(bait):
    return touch(mapped(80 << 20), 80 << 20)


@attack(spec=SPEC)
def private_map_made_writable_later(bait):
    at = mapped(80 << 20, 0)
    if ctypes.CDLL(None).mprotect(ctypes.c_void_p(at), ctypes.c_size_t(80 << 20), 3) != 0:
        raise MemoryError
    return touch(at, 80 << 20)


@attack(spec=SPEC)
def private_map_in_many_pieces(bait):
    return sum(touch(mapped(1 << 20), 1 << 20) for _ in range(80))


@attack(spec=SPEC)
def shared_map(bait):
    return touch(mapped(80 << 20, 3, 0x21), 80 << 20)


@attack(spec=SPEC)
def shared_map_that_fits(bait):
    """Even a small one is not counted: so there is none."""
    return touch(mapped(1 << 20, 3, 0x21), 1 << 20)


@attack(spec=SPEC)
def map_that_grows_down(bait):
    """RLIMIT_DATA does not count what looks like a stack."""
    return touch(mapped(80 << 20, 3, 0x122), 80 << 20)


@attack(spec=SPEC)
def stack_enlarged(bait):
    """Nor the stack itself, which mremap(2) can make as large as one likes."""
    call_mremap = ctypes.CDLL(None, use_errno=True).mremap
    call_mremap.restype = ctypes.c_void_p
    call_mremap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_size_t, ctypes.c_int, ctypes.c_void_p]
    word = ctypes.c_void_p.in_dll(ctypes.CDLL(None), "__libc_stack_end").value
    page = (word & ~4095) - 65536  # a piece of the stack: no need to know where it ends
    size = 80 << 20
    to = mapped(size + (1 << 20), 0)
    at = call_mremap(page, 4096, size, 3, to)
    if at in (None, ctypes.c_void_p(-1).value):
        raise MemoryError
    return touch(at, size)


@attack(spec=SPEC)
def memory_file(bait):
    return os.ftruncate(os.memfd_create("m"), 80 << 20) or "made"


@attack(spec=SPEC)
def pipes_enlarged(bait):
    import fcntl

    _, writing = os.pipe()
    return fcntl.fcntl(writing, 1031, 1 << 20)


@attack(spec=SPEC)
def shared_segments(bait):
    return call("shmget", 0, 1 << 20, 0o1600) + 1


@attack(spec=SPEC)
def message_queues(bait):
    return call("msgget", 0, 0o1600) + 1


@attack(spec=SPEC)
def posix_queues(bait):
    queue = call("mq_open", b"remit-test", 0o102, 0o600, None)
    call("mq_unlink", b"remit-test")
    return queue


@attack(spec=SPEC)
def shared_files_in_memory(bait):
    place = "/dev/shm/remit-test"
    descriptor = os.open(place, os.O_CREAT | os.O_RDWR)
    os.remove(place)
    return descriptor


@attack(spec={**SPEC, "threads": 64, "timeout": 8_000})
def stacks_of_threads(bait):
    """Sixty-four stacks of 8 MiB, each touched."""
    import threading

    threading.stack_size(8 << 20)
    done = []

    def deep():
        at = ctypes.create_string_buffer(6 << 20)
        done.append(len(at))
        gate.wait(5)

    gate = threading.Event()
    threads = []
    try:
        for _ in range(16):
            threads.append(threading.Thread(target=deep))
            threads[-1].start()
    finally:
        gate.set()
    for thread in threads:
        thread.join()
    return sum(done) if sum(done) > (80 << 20) else None


@attack(spec={**SPEC, "cpu": 1_500})
def page_tables(bait):
    """Reading one byte of every two megabytes costs a page of page tables each: nobody counts them."""
    gigabytes, peeked = 256, 0
    at = mapped(gigabytes << 30, 1, 0x4022)
    for offset in range(0, gigabytes << 30, 2 << 20):
        peeked += len(ctypes.string_at(at + offset, 1))
    return peeked


@attack(spec=SPEC, control="root")
def locked(bait):
    at = mapped(1 << 20)
    _lock = ctypes.CDLL(None, use_errno=True).mlock
    if _lock(ctypes.c_void_p(at), ctypes.c_size_t(1 << 20)) != 0:
        raise MemoryError
    return "locked"


@attack(spec={**SPEC, "memory": 96 << 20, "processes": 3}, needs="scratch_quota")
def children_that_each_take_the_whole(bait):
    """Three processes may have 32 MiB each."""
    pids = []
    for _ in range(2):
        pid = os.fork()
        if pid == 0:
            try:
                kept = bytearray(40 << 20)
            except MemoryError:
                os._exit(1)
            os._exit(0 if kept else 1)
        pids.append(pid)
    return sum(os.waitpid(pid, 0)[1] == 0 for pid in pids) or None


test_stopped = attack.stopped()
test_control = attack.controlled()

TAKE = """
def take(size, numpy):
    if numpy:
        import numpy
        return int(numpy.ones(size << 20, dtype="u1").nbytes)
    return len(bytearray(size << 20))
"""


@pytest.mark.parametrize("numpy", [False, True], ids=["bare", "numpy"])
def test_230_of_256_succeed_and_270_fail(setting, numpy):
    preload = ("numpy",) if numpy else ()
    fields = {"memory": 256 << 20, "cpu": 4_000}
    if numpy and not any("numpy" in host_files(path) for path in setting.python_path):
        pytest.skip("needs a python for everybody: and numpy in it")
    source = "\n".join(f"import {name}" for name in preload) + TAKE
    fits = setting.run(source, "take", 230, numpy, **fields)
    assert (fits.status, fits.value) == ("returned", 230 << 20), fits
    assert fits.usage.peak_memory >= 225 << 20
    over = setting.run(source, "take", 270, numpy, **fields)
    assert (over.status, over.what) == ("limit", "memory"), over
    assert over.bound == 256 << 20


def host_files(path):
    import os as host

    return host.listdir(path) if host.path.isdir(path) else []
