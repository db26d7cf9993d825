"""G10: no memory, secret, variable, descriptor or randomness of another call or of the host."""

from __future__ import annotations

import os as host

import pytest

from tests.escape.harness import Attacks
from tests.escape.prelude import os

attack = Attacks(__file__)


@attack
def the_environment(bait):
    # where no thread may be started, the libraries that start them are told so
    told = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS")
    return [name for name in os.environ if name not in told] or None


@attack
def the_environment_by_the_c_library(bait):
    import ctypes

    pointer = ctypes.POINTER(ctypes.c_char_p).in_dll(ctypes.CDLL(None), "environ")
    found, at = [], 0
    while pointer and pointer[at]:
        found.append(pointer[at].decode())
        at += 1
    return [pair for pair in found if "_NUM_THREADS=1" not in pair] or None


@attack
def arguments_and_program(bait):
    with open("/proc/self/cmdline", "rb") as file:
        return len(file.read())


@attack(spec=lambda bait: {"read": [bait["read"]]})
def the_folder_of_the_code(bait):
    """In a project the module lies beside its `.env`; in the jail there is only its text."""
    import inspect

    place = os.path.dirname(inspect.getfile(inspect.currentframe()))
    return os.listdir(place)


test_stopped = attack.stopped()
test_control = attack.controlled()

STATE = """
import os, random, sys, uuid
counter = []
os.environ.pop("LEFT", None)
def descriptors(x):
    found = []
    for number in range(256):
        try: found.append([number, os.fstat(number).st_mode >> 12])
        except OSError: pass
    return found
def count(x):
    counter.append(x)
    sys.left = getattr(sys, "left", 0) + 1
    os.environ["LEFT"] = os.environ.get("LEFT", "") + "x"
    return [len(counter), sys.left, os.environ["LEFT"]]
def randomness(x):
    import ssl, secrets, tempfile
    return [random.random(), str(uuid.uuid4()), ssl.RAND_bytes(8), os.urandom(8), secrets.token_hex(),
            next(tempfile._get_candidate_names())]
def core(x):
    import resource
    return [resource.getrlimit(resource.RLIMIT_CORE)[1], os.getpid()]
def variables(x):
    return dict(os.environ)
def arguments(x):
    return sys.argv, sys.orig_argv, sys.path
"""


def test_only_the_standard_descriptors_and_the_channel_are_open(setting):
    found = dict(setting.run(STATE, "descriptors", 1).value)
    # character device, two files in memory, a socket
    assert found == {0: 0o02, 1: 0o10, 2: 0o10, 3: 0o14}


def test_a_call_finds_nothing_that_another_wrote(setting):
    for _ in range(4):
        assert setting.run(STATE, "count", 1).value == [1, 1, "x"]


def test_no_two_calls_have_the_same_randomness(setting):
    source = "import ssl, secrets, tempfile\n" + STATE
    calls = [setting.run(source, "randomness", 1).value for _ in range(6)]
    for values in zip(*calls, strict=True):
        assert len(set(values)) == len(calls), values


def test_the_default_generator_of_numpy_differs(setting):
    if not any("numpy" in host.listdir(path) for path in setting.python_path if host.path.isdir(path)):
        pytest.skip("needs a python for everybody: and numpy in it")
    source = "import numpy\ndef go(x): return float(numpy.random.random())"
    assert len({setting.run(source, "go", 1).value for _ in range(4)}) == 4


def test_the_granted_variables_are_there_and_nothing_else(setting):
    assert setting.run(STATE, "variables", 1, threads=2, environment=(("GIVEN", "1"),)).value["GIVEN"] == "1"
    names = set(setting.run(STATE, "variables", 1, threads=2).value)
    # where no thread may be started, the libraries that start them are told so
    assert names <= {"OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"}
    assert not names or not setting.features.call_userns


def test_no_core_file_and_no_core_pipe(setting):
    assert setting.run(STATE, "core", 1).value[0] == 1  # core(5): 1 stops a pipe too, 0 does not
    outcome = setting.run("import os\ndef go(x):\n    os.abort()", "go", 1)
    assert outcome.status == "crashed"
    assert outcome.what in ("SIGABRT", "SIGSEGV")


def test_an_owners_secret_is_not_in_the_memory_of_anothers_template(setting):
    """The zygote, of which both are copies, has seen neither's environment nor code."""
    secret = "".join(["a-secret-", "of-owner-", "number-one-", str(host.getpid())])
    first = setting.run("def go(x): return 1", "go", 1, owner="one", environment=(("KEY", secret),))
    assert first.status == "returned"
    # The half that is searched for, so that the search does not find its own words.
    source = """
import gc, sys
def go(half):
    seen = 0
    stack = list(gc.get_objects())
    gc.unfreeze()
    stack += gc.get_objects()
    known = set()
    while stack:
        thing = stack.pop()
        if id(thing) in known: continue
        known.add(id(thing))
        if isinstance(thing, (str, bytes)):
            text = thing if isinstance(thing, str) else thing.decode("latin1")
            if half in text and "number-" + "one" in text and len(text) > len(half): seen += 1
        elif len(known) < 400000:
            stack += gc.get_referents(thing)
    return seen, len(known)
"""
    found, looked = setting.run(source, "go", "a-secret-" + "of-owner-", owner="two", cpu=10_000, timeout=20_000).value
    assert looked > 5_000
    assert found == 0
    # The same search finds what is there.
    source += f"\nKEPT = {secret!r}\n"
    found, _ = setting.run(source, "go", "a-secret-" + "of-owner-", owner="two", cpu=10_000, timeout=20_000).value
    assert found > 0


@pytest.mark.parametrize(
    ("leaves", "said"),
    [
        ("import socket; kept = socket.socketpair()", "open"),
        ("import os; kept = os.pipe()", "open"),
        ("import threading, time; threading.Thread(target=time.sleep, args=(60,), daemon=True).start()", "thread"),
    ],
)
def test_an_import_that_leaves_something_to_share_is_refused(setting, leaves, said):
    outcome, _ = setting.job(f"{leaves}\ndef go(x): return x", "go", (1,), {})
    assert outcome[0] == "unfit", outcome
    assert said in outcome[1]


def test_an_import_that_leaves_a_shared_mapping_is_refused(setting):
    source = "import mmap, os\nfile = os.open(PLACE + '/shared', os.O_RDWR | os.O_CREAT)\nos.ftruncate(file, 4096)\n"
    source += "kept = mmap.mmap(file, 4096)\nos.close(file)\ndef go(x): return x"
    source = source.replace("PLACE", repr(setting.bait["write"]))
    fields = {"read": (setting.bait["read"],), "write": (setting.bait["write"],)}
    outcome, _ = setting.job(source, "go", (1,), fields)
    assert outcome[0] == "unfit", outcome
