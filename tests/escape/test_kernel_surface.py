"""G11: only the system calls that plain programs need."""

from __future__ import annotations

import os as host

import pytest

from tests.escape.harness import Attacks
from tests.escape.prelude import call, ctypes, mapped, os, struct

attack = Attacks(__file__)


@attack
def keys(bait):
    return call("keyctl", 0, -3, 1)


@attack
def add_a_key(bait):
    return call("add_key", b"user", b"remit", b"x", 1, -3)


@attack(control="root")
def load_a_program_into_the_kernel(bait):
    attributes = ctypes.create_string_buffer(struct.pack("=IIII", 2, 4, 8, 1).ljust(128, b"\0"))  # an array map
    return call("bpf", 0, attributes, 72)


@attack(control="root")
def page_faults_by_hand(bait):
    return call("userfaultfd", 1)


@attack(control="root")
def count_events(bait):
    attributes = ctypes.create_string_buffer(struct.pack("=IIQ", 1, 128, 0).ljust(128, b"\0"))
    return call("perf_event_open", attributes, 0, -1, -1, 0)


@attack
def user_namespace(bait):
    return call("unshare", 0x10000000) + 1


@attack
def user_namespace_by_clone(bait):
    pid = call("clone", 0x10000000 | 17, 0, 0, 0, 0)
    if pid == 0:
        os._exit(0)
    return pid


@attack(control="root")
def other_namespaces(bait):
    return call("unshare", 0x08000000) + 1


@attack(control="root")
def enter_a_namespace(bait):
    space = call("pidfd_open", os.getpid(), 0)
    return call("setns", space, 0x08000000) + 1


@attack
def personality(bait):
    before = call("personality", 0xFFFFFFFF)
    call("personality", 0x0400000)  # READ_IMPLIES_EXEC
    return before + 1


@attack
def raise_a_limit(bait):
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft - 1, hard))
    return soft


@attack
def lower_the_core_limit(bait):
    """From 1 to 0, which brings a core pipe back."""
    import resource

    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    return "lowered"


@attack
def be_undumpable(bait):
    return call("prctl", 4, 0, 0, 0, 0) + 1


@attack
def another_filter(bait):
    try:
        call("prctl", 38, 1, 0, 0, 0)
    except OSError:
        pass  # in a jail it is set already, and cannot be set again: the filter is what is tried here
    code = ctypes.create_string_buffer(struct.pack("=HBBI", 0x06, 0, 0, 0x7FFF0000))
    program = struct.pack("@HxxxxxxP", 1, ctypes.addressof(code))
    return call("seccomp", 1, 0, program) + 1


@attack
def a_listener_of_its_own(bait):
    try:
        call("prctl", 38, 1, 0, 0, 0)
    except OSError:
        pass  # in a jail it is set already, and cannot be set again: the filter is what is tried here
    code = ctypes.create_string_buffer(struct.pack("=HBBI", 0x06, 0, 0, 0x7FFF0000))
    program = struct.pack("@HxxxxxxP", 1, ctypes.addressof(code))
    return call("seccomp", 1, 8, program) + 1


@attack
def landlock_of_its_own(bait):
    return call("landlock_create_ruleset", None, 0, 1)


@attack(control="a terminal, and a kernel that lets it be written to (dev.tty.legacy_tiocsti)")
def type_into_the_terminal(bait):
    import fcntl

    return fcntl.ioctl(0, 0x5412, b"x")


@attack(spec=lambda bait: {"read": [bait["read"]]})
def requests_that_are_not_on_the_list(bait):
    import fcntl

    return fcntl.ioctl(os.open(bait["read"] + "/data", os.O_RDONLY), 2, bytes(4)) and 1  # FIGETBSZ: not on the list


@attack
def old_calls_of_32_bits(bait):
    """getpid by int 0x80: 20 there, writev here."""
    code = bytes.fromhex("53b814000000cd805bc3")
    at = mapped(4096, 7)
    ctypes.memmove(at, code, len(code))
    return ctypes.CFUNCTYPE(ctypes.c_long)(at)()


@attack(control="a kernel with the x32 numbers built in: few have them")
def numbers_of_x32(bait):
    return call(0x40000000 | 39)


@attack(control="root")
def kernel_log(bait):
    return call("syslog", 10, None, 0) + 1


@attack
def the_clock(bait):
    return call("adjtimex", ctypes.create_string_buffer(256)) + 1


@attack(control="a kernel with port I/O, which virtual machines do without")
def ports(bait):
    return call("ioperm", 0x80, 1, 0) + 1


@attack(control="root")
def accounting(bait):
    return call("acct", None) + 1


@attack
def modify_the_segment_table(bait):
    return call("modify_ldt", 0, ctypes.create_string_buffer(64), 64) + 1


@attack
def pages_of_another(bait):
    return (
        call("process_madvise", call("pidfd_open", os.getpid(), 0), struct.pack("@PN", mapped(4096), 4096), 1, 20, 0)
        + 1
    )


test_stopped = attack.stopped()
test_control = attack.controlled()

SCAN = """
import ctypes, errno
libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long
def scan(start):
    done = []
    for number in range(start, start + 600):
        if libc.syscall(ctypes.c_long(number), 0, 0, 0, 0, 0, 0) != -1 or ctypes.get_errno() != errno.ENOSYS:
            done.append(number)
    return done
"""


@pytest.mark.parametrize("start", [470, 1 << 16, 0x40000000, 0x7FFFFF00])
def test_numbers_that_nobody_knows_are_not_there(setting, start):
    assert setting.run(SCAN, "scan", start).value == []


def test_the_old_calls_of_32_bits_end_the_process(setting):
    if host.uname().machine != "x86_64":
        return
    source = "import ctypes, mmap\ndef go(code):\n    page = mmap.mmap(-1, 4096, flags=0x22, prot=7)\n"
    source += "    page.write(code)\n    at = ctypes.addressof(ctypes.c_char.from_buffer(page))\n"
    source += "    return ctypes.CFUNCTYPE(ctypes.c_long)(at)()"
    outcome = setting.run(source, "go", bytes.fromhex("53b814000000cd805bc3"))
    assert (outcome.status, outcome.what) == ("crashed", "SIGSYS")
