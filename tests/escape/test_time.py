"""G7: the deadline ends the call, whatever the host does. A stopped host: tests/jail/test_supervisor.py."""

from __future__ import annotations

from tests.escape.harness import Attacks
from tests.escape.prelude import os, signal, time

attack = Attacks(__file__)
SPEC = {"timeout": 150}


@attack(spec=SPEC, ends="limit timeout")
def sleep(bait):
    time.sleep(0.5)
    return "slept"


@attack(spec=SPEC, ends="limit timeout")
def wait_for_a_pipe(bait):
    import select

    reading, _ = os.pipe()
    select.select([reading], [], [], 0.5)
    return "waited"


@attack(spec=SPEC, ends="limit timeout")
def ignore_everything_and_sleep(bait):
    signal.pthread_sigmask(signal.SIG_BLOCK, range(1, 65))
    time.sleep(0.5)
    return "slept"


@attack(spec=SPEC, ends="limit timeout")
def sleep_with_the_interpreter_locked(bait):
    import ctypes

    ctypes.PyDLL(None).usleep(500_000)
    return "slept"


@attack(spec=SPEC, ends="limit timeout")
def sleep_in_finally(bait):
    try:
        time.sleep(0.3)
    finally:
        time.sleep(0.3)
    return "slept"


test_stopped = attack.stopped()
test_control = attack.controlled()

STOP = """
import os, signal, time
def stop():
    os.kill(os.getpid(), signal.SIGSTOP)
    time.sleep(60)
"""


def test_a_call_that_stops_itself_is_ended_in_time(setting):
    outcome = setting.run(STOP, "stop", timeout=150)
    assert outcome.status in ("limit", "raised"), outcome  # raised: where signals are refused altogether
    assert outcome.usage.wall_ms < 2_000


def test_the_result_comes_before_the_deadline_or_not_at_all(setting):
    outcome = setting.run("import time\ndef late(x):\n    time.sleep(x); return 1", "late", 0.05, timeout=2_000)
    assert (outcome.status, outcome.value) == ("returned", 1)
