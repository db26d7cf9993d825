"""G12: what a jail sends can neither run code in the host nor harm the next call.

There is no control in the open: a plain process has no channel. Instead each test shows that the next call works.
"""

from __future__ import annotations

import os
import time

import pytest

from tests.escape.prelude import NR

SEND = """
import os, socket, struct, sys, time
def raw(data, then):
    while data:
        data = data[os.write(3, data):]
    if then == "exit": os._exit(0)
    if then == "sleep": time.sleep(60)
    if then == "close":
        os.close(3)
        time.sleep(60)
    return "the result"
def descriptors(x):
    channel = socket.socket(fileno=os.dup(3))
    socket.send_fds(channel, [b"x"], [0, 1, 2])
    return "the result"
def again(data):
    if os.fork() == 0:
        os.write(3, data)
        os._exit(0)
    os.wait()
    return "the result"
def endless(x):
    while True: os.write(3, b"\\0" * 65536)
def stop_reading(x):
    channel = socket.socket(fileno=os.dup(3))
    channel.shutdown(socket.SHUT_RD)
    return "the result"
def shut(x):
    socket.socket(fileno=os.dup(3)).shutdown(socket.SHUT_RDWR)
    time.sleep(60)
def large(size): return "x" * size
def wide(count): return [[]] * count
def deep(depth):
    value = []
    for _ in range(depth): value = [value]
    return value
def odd(kind):
    return {"nan": float("nan"), "inf": float("inf"), "set": {1}, "object": object(), "key": {1: 2},
            "surrogate": "\\ud800", "int": 10 ** 5000, "bytes": b"\\0\\xff", "self": sys.modules}[kind]
def fine(x): return x
"""


def frame(text, sections=(), magic=b"rmt1", length=None, count=None):
    head = magic + (len(text) if length is None else length).to_bytes(4, "little")
    head += (len(sections) if count is None else count).to_bytes(4, "little")
    return head + b"".join(len(s).to_bytes(4, "little") for s in sections) + text + b"".join(sections)


GARBAGE = {
    "noise": b"\xff" * 64,
    "a pickle": b"\x80\x04cos\nsystem\n(S'true'\ntR.",
    "another magic": frame(b"{}", magic=b"rmt2"),
    "too many sections": frame(b"{}", count=4096),
    "a number": frame(b"7"),
    "two answers": frame(b'{"value":1,"raised":2}'),
    "an answer of its own": frame(b'{"granted":true}'),
    "not json": frame(b"{"),
    "not utf-8": frame(b'{"value":"\xff"}'),
    "a key twice": frame(b'{"value":1,"value":2}'),
    "nan": frame(b'{"value":NaN}'),
    "infinity": frame(b'{"value":1e999}'),
    "half a character": frame(b'{"value":"\\ud800"}'),
    "a number of 5000 digits": frame(b'{"value":' + b"9" * 5000 + b"}"),
    "bytes that are not there": frame(b'{"value":{"$bytes":3}}'),
    "bytes and more": frame(b'{"value":{"$bytes":0,"b":1}}', (b"x",)),
    "deep": frame(b'{"value":' + b"[" * 400 + b"]" * 400 + b"}"),
    "deeper than the stack": frame(b'{"value":' + b"[" * 100_000 + b"]" * 100_000 + b"}"),
    "deep and escaped": frame(b'{"value":' + b'{"$a":' * 400 + b"1" + b"}" * 400 + b"}"),
    "two frames": frame(b'{"value":1}') * 2,
    "a frame and a half": frame(b'{"value":1}') + b"r",
    "a section too few": frame(b'{"value":1}', (b"x",))[:-1] + b"",
}


@pytest.mark.parametrize("name", GARBAGE)
@pytest.mark.parametrize("then", ["exit", "close"])
def test_garbage_ends_the_call_and_nothing_else(setting, name, then):
    outcome = setting.run(SEND, "raw", GARBAGE[name], then, timeout=500)
    assert outcome.status in ("crashed", "limit"), (name, outcome)
    assert setting.run(SEND, "fine", "next").value == "next"


def test_an_oversized_frame_is_known_by_its_header(setting):
    outcome = setting.run(SEND, "raw", frame(b"", length=1 << 31), "sleep")
    assert (outcome.status, outcome.what, outcome.used) == ("limit", "result", 1 << 31)
    assert outcome.usage.wall_ms < 2_000


def test_an_endless_stream_ends_the_call(setting):
    assert setting.run(SEND, "endless", 1).status == "crashed"


def test_a_torn_frame_is_ended_by_the_deadline(setting):
    outcome = setting.run(SEND, "raw", frame(b'{"value":1}')[:-1], "sleep", timeout=200)
    assert (outcome.status, outcome.what) == ("limit", "timeout")


def test_answering_twice_is_one_answer_or_none(setting):
    """Both in one piece are no frame; else the call is over with the first, and nobody reads the second."""
    outcome = setting.run(SEND, "raw", frame(b'{"value":"forged"}'), "return")
    first = ("returned", "", "forged")
    assert (outcome.status, outcome.what, outcome.value) in (first, ("crashed", "channel: more than one frame", None))
    assert setting.run(SEND, "fine", "next").value == "next"


def test_a_forged_answer_is_only_an_answer(setting):
    outcome = setting.run(SEND, "raw", frame(b'{"value":"forged"}'), "exit")
    assert (outcome.status, outcome.value) == ("returned", "forged")


@pytest.mark.parametrize("how", ["raw", "shut"])
def test_closing_the_channel_and_living_on_ends_the_call(setting, how):
    args = (b"", "close") if how == "raw" else (1,)
    outcome = setting.run(SEND, how, *args)
    assert (outcome.status, outcome.what) == ("crashed", "channel: it closed its end and lived on")
    assert outcome.usage.wall_ms < 2_000


def test_descriptors_sent_to_the_host_go_nowhere(setting):
    for _ in range(3):
        assert setting.run(SEND, "descriptors", 1).status == "crashed"  # the byte that carries them is no frame
    assert setting.run(SEND, "fine", 1).value == 1


def test_a_grandchild_speaks_for_nobody(setting):
    for data in (b"garbage of a grandchild", frame(b'{"value":"of a grandchild"}')):
        outcome = setting.run(SEND, "again", data, processes=2)
        if outcome == ("unheld", "processes"):
            return
        assert outcome.status == "crashed", outcome
        assert "channel" in outcome.what


def test_a_result_that_is_too_large_is_a_limit(setting):
    outcome = setting.run(SEND, "large", 3 << 20, result=1 << 20)
    assert (outcome.status, outcome.what, outcome.bound) == ("limit", "result", 1 << 20)
    assert outcome.used >= 3 << 20
    assert setting.run(SEND, "large", 1 << 10, result=1 << 20).status == "returned"


@pytest.mark.parametrize("kind", ["nan", "inf", "set", "object", "key", "surrogate", "int", "self"])
def test_what_is_not_plain_is_said_to_be(setting, kind):
    outcome = setting.run(SEND, "odd", kind)
    assert (outcome.status, outcome.what) == ("raised", "NotPlain"), outcome


def test_plain_values_come_back_as_they_are(setting):
    assert setting.run(SEND, "odd", "bytes").value == b"\0\xff"
    assert setting.run(SEND, "wide", 10_000).value == [[]] * 10_000
    assert setting.run(SEND, "deep", 60).status == "returned"
    assert setting.run(SEND, "deep", 100).what == "NotPlain"


TEMPLATES = {
    "deep json": "os.write(3, b'[' * 50000)",
    "noise": "os.write(3, b'\\xff' * 100)",
    "a number": "os.write(3, b'7')",
    "huge": "os.write(3, b'f' + b'x' * 120000)",
    "ready, then gone": "os.write(3, READY); os._exit(0)",
    "ready, then noise": "os.write(3, READY); os.write(3, b'l'); time.sleep(0.3)",
    "ready, then silent": "os.write(3, READY); time.sleep(0.3)",
    "a listener": "socket.send_fds(socket.socket(fileno=os.dup(3)), [b'l'], [0]); time.sleep(0.3)",
    "descriptors": "socket.send_fds(socket.socket(fileno=os.dup(3)), [b'r'], [0, 1, 2])",
    "failed with a list": "os.write(3, b'f' + FRAME(b'[1]')); time.sleep(0.3)",
    "failed with numbers": "os.write(3, b'f' + FRAME(b'{\"message\":1,\"wall\":{}}')); time.sleep(0.3)",
    "ready with depth": "os.write(3, b'r' + FRAME(b'[' * 50000)); time.sleep(0.3)",
    "closed": "os.close(3); time.sleep(0.3)",
    "forks": "[os.fork() for _ in range(3)]",
}


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_template_that_lies_harms_nobody_else(setting, name):
    """The import is foreign code with the socket to the zygote in its hands."""
    if setting.name not in ("root", "unprivileged", "no namespaces"):
        return  # the zygote's side of it is the same
    source = f"""
import os, socket, struct, time
def FRAME(text): return b"rmt1" + struct.pack("<II", len(text), 0) + text
READY = b"r" + FRAME(b'{{"describe":null}}')
def go(x): return x
try:
    {TEMPLATES[name]}
except OSError:
    pass
"""
    setting.job(source, "go", (1,), {"timeout": 300, "owner": "liar", "import_timeout": 500})
    assert setting.run(SEND, "fine", "next").value == "next"


def test_calls_made_behind_the_zygotes_back_are_ended(setting):
    """A template that forks what it was not asked for, by a timer, is ended with its children."""
    if setting.name != "unprivileged":
        return  # once is enough: it takes two looks of the zygote's, a second each
    flags = 0x8000 | 17 | (0x10000000 if setting.features.call_userns else 0)
    source = f"""
import ctypes, os, signal, time
libc = ctypes.CDLL(None)
def more(*_):
    for _ in range(3):
        if libc.syscall({NR["clone"]}, {flags}, 0, 0, 0, 0) == 0:
            libc.prctl(15, b"rogue", 0, 0, 0)
            while True: time.sleep(60)
signal.signal(signal.SIGALRM, more)
signal.setitimer(signal.ITIMER_REAL, 0.3)
def go(x):
    time.sleep(x)
    return x
"""

    def rogues():
        found = 0
        for pid in filter(str.isdigit, os.listdir("/proc")):
            try:
                with open(f"/proc/{pid}/comm") as name:
                    found += name.read() == "rogue\n"
            except OSError:
                continue
        return found

    assert setting.run(source, "go", 0.1, owner="rogue").status == "returned"
    deadline, most = time.monotonic() + 20, 0
    while time.monotonic() < deadline and not (most and not rogues()):
        most = max(most, rogues())
        time.sleep(0.05)
    assert most >= 3
    assert rogues() == 0
