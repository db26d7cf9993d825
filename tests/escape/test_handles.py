"""G8: open files, file sizes and output are bounded."""

from __future__ import annotations

from tests.escape.harness import Attacks
from tests.escape.prelude import os

attack = Attacks(__file__)


@attack(spec={"file_handles": 20})
def open_many(bait):
    return len([os.dup(1) for _ in range(40)])


@attack(spec={"file_handles": 20})
def open_after_raising_the_limit(bait):
    import resource

    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
    except (OSError, ValueError):
        pass
    return len([os.dup(1) for _ in range(40)])


@attack(spec={"file_handles": 20})
def open_by_pipes(bait):
    return len([os.pipe() for _ in range(20)])


@attack(spec=lambda bait: {"write": [bait["write"]], "file_size": 1 << 20, "output": 1 << 16})
def write_a_large_file(bait):
    place = bait["write"] + f"/large{os.getpid()}"
    descriptor = os.open(place, os.O_CREAT | os.O_WRONLY)
    try:
        written = sum(os.write(descriptor, bytes(1 << 18)) for _ in range(8))
        return written if written > 1 << 20 else None
    finally:
        os.remove(place)


@attack(spec=lambda bait: {"write": [bait["write"]], "file_size": 1 << 20, "output": 1 << 16})
def make_a_large_hole(bait):
    place = bait["write"] + f"/hole{os.getpid()}"
    descriptor = os.open(place, os.O_CREAT | os.O_WRONLY)
    try:
        return os.ftruncate(descriptor, 8 << 20) or "made"
    finally:
        os.remove(place)


test_stopped = attack.stopped()
test_control = attack.controlled()

NOISE = """
import os, sys
def noise(size):
    for _ in range(size // 1000):
        print("x" * 999)
    sys.stderr.write("y" * size)
    return "the result"
def raw(size):
    data = b"x" * size
    while data:
        data = data[os.write(1, data):]
def grow(size):
    os.ftruncate(1, size)
def seek(size):
    os.lseek(1, size, os.SEEK_SET)
    return "the result"
"""


def test_a_noisy_function_keeps_its_result_and_its_output_is_cut(setting):
    outcome = setting.run(NOISE, "noise", 100_000, output=10_000)
    assert (outcome.status, outcome.value) == ("returned", "the result")
    assert (len(outcome.stdout), len(outcome.stderr), outcome.output_truncated) == (10_000, 10_000, True)


def test_output_that_fits_is_whole(setting):
    outcome = setting.run(NOISE, "noise", 10_000, output=10_000)
    assert (len(outcome.stdout), len(outcome.stderr), outcome.output_truncated) == (10_000, 10_000, False)


def test_output_cannot_be_made_larger(setting):
    assert setting.run(NOISE, "grow", 1 << 30, output=4096).status == "raised"
    outcome = setting.run(NOISE, "raw", 1 << 20, output=4096)
    assert outcome.status == "raised"
    assert len(outcome.stdout) == 4096
    outcome = setting.run(NOISE, "seek", 1 << 40, output=4096)
    assert outcome.value == "the result"
    assert len(outcome.stdout) <= 4096
