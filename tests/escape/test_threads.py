"""G9: threads are bounded."""

from __future__ import annotations

from tests.escape.harness import Attacks

attack = Attacks(__file__)


@attack(spec={"threads": 4})
def start_many(bait):
    import threading

    gate = threading.Event()
    threads = []
    try:
        for _ in range(16):
            thread = threading.Thread(target=gate.wait)
            thread.start()
            threads.append(thread)
    finally:
        gate.set()
    for thread in threads:
        thread.join()
    return len(threads)


@attack(spec={"threads": 1})
def start_one_where_none_may_be(bait):
    import threading

    thread = threading.Thread(target=lambda: None)
    thread.start()
    thread.join()
    return "started"


@attack(spec={"threads": 4})
def start_threads_that_are_never_joined(bait):
    import _thread

    started = 0
    lock = _thread.allocate_lock()
    lock.acquire()
    for _ in range(16):
        _thread.start_new_thread(lock.acquire, ())
        started += 1
    return started


test_stopped = attack.stopped()
test_control = attack.controlled()

SOME = """
def some(count):
    import threading
    gate = threading.Barrier(count + 1)
    threads = [threading.Thread(target=gate.wait) for _ in range(count)]
    for thread in threads: thread.start()
    gate.wait(5)
    for thread in threads: thread.join()
    return count
"""


def test_the_granted_threads_can_be_had(setting):
    outcome = setting.run(SOME, "some", 3, threads=4)
    if setting.features.call_userns:
        assert (outcome.status, outcome.value) == ("returned", 3), outcome
    else:  # the kernel cannot count them exactly there, so there are none
        assert outcome.status == "raised"
        assert "start new thread" in outcome.message


def test_numpy_works_where_there_are_no_threads(setting):
    import pytest

    from tests.escape.test_memory import host_files

    if not any("numpy" in host_files(path) for path in setting.python_path):
        pytest.skip("needs a python for everybody: and numpy in it")
    source = "def late(x):\n    import numpy\n    return float((numpy.ones((64, 64)) @ numpy.ones((64, 64))).sum())"
    outcome = setting.run(source, "late", 1, memory=512 << 20)
    assert (outcome.status, outcome.value) == ("returned", 64.0 * 64 * 64), outcome
