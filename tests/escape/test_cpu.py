"""G6: CPU time beyond the limit ends the call."""

from __future__ import annotations

from tests.escape.harness import Attacks
from tests.escape.prelude import os, signal, time

attack = Attacks(__file__)
SPEC = {"cpu": 100, "timeout": 5_000}


@attack(spec=SPEC, ends="limit cpu")
def spin(bait):
    end = time.process_time() + 0.4
    while time.process_time() < end:
        pass
    return "spun"


@attack(spec=SPEC, ends="limit cpu")
def spin_with_signals_ignored(bait):
    for number in range(1, 65):
        try:
            signal.signal(number, signal.SIG_IGN)
        except (OSError, ValueError):
            continue
    signal.pthread_sigmask(signal.SIG_BLOCK, range(1, 65))
    end = time.process_time() + 0.4
    while time.process_time() < end:
        pass
    return "spun"


@attack(spec=SPEC, ends="limit cpu")
def spin_with_sigxcpu_handled(bait):
    signal.signal(signal.SIGXCPU, lambda *_: None)
    end = time.process_time() + 0.4
    while time.process_time() < end:
        pass
    return "spun"


@attack(spec={**SPEC, "cpu": 200}, ends="limit cpu", needs="scratch_quota")
def spin_in_threads(bait):
    """hashlib lets go of the GIL: two cores are used at once."""
    import hashlib
    import threading

    data = bytes(1 << 22)
    end = time.process_time() + 0.8

    def work():
        while time.process_time() < end:
            hashlib.sha256(data).digest()

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return "spun"


@attack(spec=SPEC, ends="limit cpu")
def spin_in_the_kernel(bait):
    end = time.process_time() + 0.4
    reading, writing = os.pipe()
    while time.process_time() < end:
        os.write(writing, b"x" * 4096)
        os.read(reading, 4096)
    return "spun"


@attack(spec=SPEC, ends="limit cpu")
def spin_after_raising_the_limit(bait):
    import resource

    try:
        resource.setrlimit(resource.RLIMIT_CPU, (60, 60))
    except (OSError, ValueError):
        pass
    end = time.process_time() + 0.4
    while time.process_time() < end:
        pass
    return "spun"


test_stopped = attack.stopped()
test_control = attack.controlled()


def test_the_limit_is_exact(setting):
    """To the kernel's own accounting, which is what the ending quotes: over the limit, and by less than 20 ms."""
    outcome = setting.run("def spin():\n    while True: pass", "spin", cpu=150, timeout=8_000)
    used = outcome.usage.cpu_user_ms + outcome.usage.cpu_system_ms
    assert (outcome.status, outcome.what, outcome.bound) == ("limit", "cpu", 150)
    assert 140 <= used < 250, used
