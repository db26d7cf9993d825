"""G4: no process but those allowed; none outside is reached; none outlives the call."""

from __future__ import annotations

import os as host
import time as clock

from tests.escape.harness import Attacks
from tests.escape.prelude import call, ctypes, os, signal, struct, time

attack = Attacks(__file__)


@attack
def fork(bait):
    if os.fork() == 0:
        os._exit(0)
    return "forked"


@attack
def vfork_and_execute(bait):
    import subprocess

    return subprocess.run(["/bin/true"], check=False).returncode + 1


@attack
def clone_by_the_new_call(bait):
    arguments = struct.pack("=8Q", 0, 0, 0, 0, signal.SIGCHLD, 0, 0, 0)
    if call("clone3", arguments, 64) == 0:
        os._exit(0)
    return "cloned"


@attack
def double_fork(bait):
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            os._exit(0)
        os._exit(0)
    return "daemon"


@attack(control="nothing in the open: with CLONE_PARENT the child is a sibling, as the zygote's is")
def sibling_as_the_template_makes_them(bait):
    for extra in (0, 0x10000000, 0x10000000 | 0x20000, 0x10000000 | 0x20000000):
        try:
            if call("clone", 0x8000 | signal.SIGCHLD | extra, 0, 0, 0, 0) == 0:
                os._exit(0)
            return extra + 1
        except OSError:
            continue
    return None


@attack(control="the end of whoever tries: it would kill the tests")
def kill_the_parent(bait):
    os.kill(os.getppid(), signal.SIGKILL)
    return "killed"


@attack
def signal_the_parent(bait):
    os.kill(os.getppid(), 0)
    return "reached"


@attack
def signal_the_host(bait):
    os.kill(bait["host"], 0)
    return "reached"


@attack
def signal_a_victim(bait):
    os.kill(bait["victim"], signal.SIGCONT)
    return "reached"


@attack
def signal_a_victims_thread(bait):
    return call("tgkill", bait["victim"], bait["victim"], 0) + 1


@attack
def signal_by_the_old_call(bait):
    return call("tkill", bait["victim"], 0) + 1


@attack
def signal_every_number(bait):
    """Siblings, the template, the zygote: all that is in sight."""
    reached = []
    for pid in [*range(1, 64), *range(max(2, os.getpid() - 64), os.getpid() + 64)]:
        if pid != os.getpid():
            try:
                os.kill(pid, 0)
                reached.append(pid)
            except OSError:
                continue
    return reached or None


@attack
def queue_a_signal(bait):
    information = struct.pack("=iii", 0, 0, -1).ljust(128, b"\0")
    return call("rt_sigqueueinfo", bait["victim"], signal.SIGCONT, information) + 1


@attack
def signal_by_descriptor(bait):
    signal.pidfd_send_signal(os.pidfd_open(bait["victim"]), signal.SIGCONT)
    return "reached"


@attack
def own_a_files_signals(bait):
    import fcntl

    reading, _ = os.pipe()
    fcntl.fcntl(reading, fcntl.F_SETOWN, bait["victim"])
    return "owned"


@attack
def trace_a_victim(bait):
    return call("ptrace", 0x4206, bait["victim"], 0, 0) + 1  # SEIZE; whoever ends lets go


@attack
def be_traced(bait):
    return call("ptrace", 0, 0, 0, 0) + 1


@attack
def read_a_victims_memory(bait):
    buffer = ctypes.create_string_buffer(8)
    with open(f"/proc/{bait['victim']}/maps") as maps:
        start = int(maps.readline().partition("-")[0], 16)
    local = struct.pack("@PN", ctypes.addressof(buffer), 8)
    remote = struct.pack("@PN", start, 8)
    return call("process_vm_readv", bait["victim"], local, 1, remote, 1, 0)


@attack(control="nothing in the open: the address is not known there either, but the call must be refused as such")
def read_the_parents_memory(bait):
    buffer = ctypes.create_string_buffer(8)
    here = struct.pack("@PN", ctypes.addressof(buffer), 8)
    return call("process_vm_readv", os.getppid(), here, 1, here, 1, 0)


@attack
def compare_kernel_objects(bait):
    return call("kcmp", os.getpid(), bait["victim"], 1, 0, 0) + 1


@attack
def take_a_victims_descriptor(bait):
    return call("pidfd_getfd", os.pidfd_open(bait["victim"]), 0, 0)


@attack
def enter_a_victims_namespace(bait):
    return os.open(f"/proc/{bait['victim']}/ns/uts", os.O_RDONLY)


@attack
def limits_of_another(bait):
    import resource

    return resource.prlimit(bait["victim"], resource.RLIMIT_NOFILE)[0]


@attack
def become_a_session(bait):
    if os.getpid() == os.getsid(0):
        return "is one"
    os.setsid()
    return "became one"


@attack(control="a process with a lower priority than it may have: it gets it in the open only as root")
def raise_priority(bait):
    os.setpriority(os.PRIO_PROCESS, 0, -5)
    return "raised"


@attack
def lower_anothers_priority(bait):
    os.setpriority(os.PRIO_PROCESS, bait["victim"], 5)
    return "lowered"


@attack(control="root")
def become_real_time(bait):
    os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
    return "real time"


@attack
def change_class(bait):
    os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
    return "changed"


@attack
def change_affinity(bait):
    os.sched_setaffinity(0, {0})
    return "changed"


@attack
def change_io_priority(bait):
    return call("ioprio_set", 1, 0, (2 << 13) | 7) + 1


@attack
def outlive_the_parent(bait):
    """Take back the order that one dies with one's parent."""
    return call("prctl", 1, 0, 0, 0, 0) + 1


@attack
def become_a_reaper(bait):
    return call("prctl", 36, 1, 0, 0, 0) + 1


@attack(spec={"processes": 4}, needs="scratch_quota", ends="returned")
def bomb_within_the_limit(bait):
    """Fork as often as it goes: more than the granted ones is evidence."""
    children = 0
    for _ in range(64):
        try:
            if os.fork() == 0:
                time.sleep(0.5)
                os._exit(0)
        except OSError:
            break
        children += 1
    return children if children > 3 else None


test_stopped = attack.stopped()
test_control = attack.controlled()

SLEEPER = """
import os, time
def stay(seconds):
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            os.closerange(0, 16)
            time.sleep(seconds)
        os._exit(0)
    return os.getpid()
"""


def test_no_daemon_outlives_its_call(setting):
    if not setting.features.call_userns:
        return  # more than one process is refused there: tests/jail/test_supervisor.py
    before = set(filter(str.isdigit, host.listdir("/proc")))
    outcome = setting.run(SLEEPER, "stay", 300, processes=4)
    if outcome == ("unheld", "processes"):
        return
    assert (outcome.status, outcome.value) == ("returned", 1)
    deadline = clock.monotonic() + 10
    while clock.monotonic() < deadline:
        fresh = [pid for pid in filter(str.isdigit, host.listdir("/proc")) if pid not in before]
        seconds = [pid for pid in fresh if sleeping_in_a_session_of_its_own(pid)]
        if not seconds:
            return
        clock.sleep(0.05)
    raise AssertionError(seconds)


def sleeping_in_a_session_of_its_own(pid):
    """Whether it is in a pid namespace two below this one: only calls with processes of their own are."""
    try:
        with open(f"/proc/{pid}/status") as status:
            spaces = next(line for line in status if line.startswith("NSpid:")).split()[1:]
        with open(f"/proc/{pid}/stat") as stat:
            state = stat.read().rpartition(")")[2].split()[0]
    except (OSError, StopIteration):
        return False
    # 1 is a call's own first process, which the pool keeps warm
    return len(spaces) > 2 and spaces[-1] != "1" and state != "Z"


BURNERS = """
import os
def burn(x):
    for _ in range(2):
        if os.fork() == 0:
            while True: pass
    while True: pass
"""


def test_cpu_counts_over_the_tree(setting):
    if not setting.features.call_userns:
        return
    outcome = setting.run(BURNERS, "burn", 1, processes=3, cpu=300, timeout=5000)
    if outcome == ("unheld", "processes"):
        return
    assert (outcome.status, outcome.what) == ("limit", "cpu")
    assert outcome.usage.wall_ms < 2_000


def test_programs_are_not_executed(setting):
    source = "import os\ndef go(x):\n    os.execv(x, [x])"
    outcome = setting.run(source, "go", "/bin/true")
    assert outcome.status in ("denied", "raised"), outcome
