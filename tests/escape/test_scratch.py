"""G14: a private scratch is bounded in bytes and files, and gone after the call."""

from __future__ import annotations

from tests.escape.harness import Attacks
from tests.escape.prelude import os

attack = Attacks(__file__)
SPEC = {"tmp": 1 << 20, "file_size": 64 << 20}


@attack(spec=SPEC, needs="scratch_quota")
def more_bytes(bait):
    import tempfile

    with tempfile.TemporaryFile(buffering=0) as file:
        return sum(file.write(bytes(1 << 18)) for _ in range(8))


@attack(spec=SPEC, needs="scratch_quota")
def more_bytes_in_many_files(bait):
    import tempfile

    places = [tempfile.mkstemp() for _ in range(8)]
    try:
        return sum(os.write(handle, bytes(1 << 18)) for handle, _ in places)
    finally:
        for _, place in places:
            os.remove(place)


@attack(spec=SPEC, needs="scratch_quota")
def many_empty_files(bait):
    import shutil
    import tempfile

    folder = tempfile.mkdtemp()
    try:
        for number in range(2000):
            os.close(os.open(f"{folder}/{number}", os.O_CREAT))
    finally:
        shutil.rmtree(folder)
    return 2000


@attack(spec=SPEC, needs="scratch_quota")
def execute_from_the_scratch(bait):
    import tempfile

    handle, place = tempfile.mkstemp()
    os.write(handle, b"#!/bin/sh\nexit 7\n")
    os.close(handle)
    os.chmod(place, 0o755)
    try:
        return os.access(place, os.X_OK) or None
    finally:
        os.remove(place)


@attack(spec=SPEC, needs="scratch_quota")
def map_more_than_there_is(bait):
    import mmap
    import tempfile

    with tempfile.TemporaryFile() as file:
        file.truncate(8 << 20)
        with mmap.mmap(file.fileno(), 8 << 20) as memory:
            for at in range(0, 8 << 20, 4096):
                memory[at] = 1
    return "mapped"


test_stopped = attack.stopped()
test_control = attack.controlled()

LEAVE = """
import os, tempfile
def leave(x):
    folder = tempfile.gettempdir()
    seen = os.listdir(folder)
    with open(folder + "/left", "w") as file:
        file.write("by another call")
    return seen
"""


def test_each_call_has_a_scratch_of_its_own(setting):
    if not setting.held("scratch_quota"):
        assert setting.run(LEAVE, "leave", 1, tmp=1 << 20) == ("unheld", "scratch_quota")
        return
    for _ in range(3):
        outcome = setting.run(LEAVE, "leave", 1, tmp=1 << 20)
        assert (outcome.status, outcome.value) == ("returned", []), outcome
