"""G13: attempts to get out are seen by the host, as the kernel saw them."""

from __future__ import annotations

import pytest

TRY = """
import ctypes, os, socket
libc = ctypes.CDLL(None, use_errno=True)
def go(what):
    try:
        if what == "socket": socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        if what == "connect": socket.socketpair()[0].connect("/run/host")
        if what == "execve": os.execv("/bin/sh", ["sh"])
        if what == "clone": os.fork()
        if what == "ptrace": libc.ptrace(0, 0, 0, 0)
        if what == "mount": libc.mount(b"a", b"/mnt", b"tmpfs", 0, None)
        if what == "unshare": libc.unshare(0x10000000)
        if what == "bpf": libc.syscall(321, 0, 0, 0)
    except OSError as error:
        return error.errno
    return ctypes.get_errno()
def flood(x):
    for _ in range(100000):
        try: socket.socket()
        except OSError: pass
"""


@pytest.mark.parametrize("what", ["socket", "connect", "execve", "clone", "ptrace", "mount", "unshare"])
def test_it_is_seen_by_the_kernel_and_named(setting, what):
    outcome = setting.run(TRY, "go", what)
    seen = [refusal for refusal in outcome.refusals if refusal.seen_by == "kernel"]
    assert [refusal.what for refusal in seen] == [what], outcome
    assert seen[0].call is not None
    assert outcome.value in (1, 13)  # EPERM, EACCES


def test_what_was_tried_is_told(setting):
    seen = setting.run(TRY, "go", "socket").refusals[0]
    assert seen.resource == "AF_INET SOCK_DGRAM"
    seen = setting.run(TRY, "go", "execve").refusals[0]
    assert seen.resource == "/bin/sh"


def test_a_flood_ends_the_call(setting):
    outcome = setting.run(TRY, "flood", 1, cpu=3_000)
    assert (outcome.status, outcome.what) == ("denied", "too many refused attempts")
    assert len([refusal for refusal in outcome.refusals if refusal.seen_by == "kernel"]) == 100


def test_refusals_while_a_module_is_imported_are_seen(setting):
    source = "import socket\ntry: socket.socket()\nexcept OSError: pass\ndef go(x): return x"
    outcome, refused = setting.job(source, "go", (1,), {})
    assert outcome.value == 1
    assert [(refusal.what, refusal.call) for refusal in refused] == [("socket", None)]


def test_a_flood_while_a_module_is_imported_ends_the_import(setting):
    source = "import socket\nwhile True:\n    try: socket.socket()\n    except OSError: pass\ndef go(x): return x"
    outcome, _ = setting.job(source, "go", (1,), {})
    assert outcome[0] == "unfit", outcome


def test_without_a_listener_the_attempt_is_still_refused(sources):
    import sys

    from tests.escape.harness import Setting

    quiet = Setting("no listener", [sys.executable], 0, {"listener": False}, False, sources)
    try:
        outcome = quiet.run(TRY, "go", "socket")
        assert outcome.value == 13
        assert outcome.refusals == ()
        assert not quiet.held("refusals_seen")
    finally:
        quiet.stop()
