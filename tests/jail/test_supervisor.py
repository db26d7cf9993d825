from __future__ import annotations

import itertools
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from remit.jail import channel, interpreter
from remit.jail.spec import Code, Ending, JailSpec, Refusal
from remit.jail.supervisor import Supervisor, Unfit
from tests.jail.conftest import request_of, run_in, spec_of

Run = Callable[..., Ending]


def submit(supervisor: Supervisor, source: str, *args: Any, **fields: Any) -> Any:
    spec = spec_of(source, **fields)
    template = supervisor.template(spec)
    template.ready.result(40)
    return supervisor.submit(template, request_of(*args), spec)


def until(condition: Callable[[], bool], seconds: float = 10) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come to pass"
        time.sleep(0.01)


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def below(pid: int) -> set[int]:
    """All processes below a process."""
    parents = {}
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{name}/stat") as stat:
                fields = stat.read().rpartition(")")[2].split()
        except OSError:
            continue
        if fields[0] != "Z":
            parents[int(name)] = int(fields[1])
    found: set[int] = set()
    while more := {child for child, parent in parents.items() if parent in found | {pid}} - found:
        found |= more
    return found


# --- endings


def test_returned(run: Run) -> None:
    outcome = run("def go(a, b=2): return {'sum': a + b, 'raw': b'x'}", 1)
    assert (outcome.status, outcome.value) == ("returned", {"sum": 3, "raw": b"x"})
    assert outcome.usage.wall_ms > 0


def test_a_coroutine_is_awaited(run: Run) -> None:
    assert run("import asyncio\nasync def go(x):\n    await asyncio.sleep(0)\n    return x", 5).value == 5


def test_raised(run: Run) -> None:
    outcome = run("def go(x):\n    raise ValueError('no ' + x)", "way")
    assert (outcome.status, outcome.what, outcome.message) == ("raised", "ValueError", "no way")
    assert 'File "/x/tried.py", line 2, in go' in outcome.traceback
    assert "remit/jail" not in outcome.traceback


@pytest.mark.parametrize(
    ("body", "what"),
    [
        ("import sys; sys.exit(3)", "SystemExit"),
        ("raise KeyboardInterrupt", "KeyboardInterrupt"),
        ("class Odd(Exception):\n        def __str__(self): raise OSError\n    raise Odd", "tried.go.<locals>.Odd"),
        ("raise BaseException('base')", "BaseException"),
        ("return go(x)", "RecursionError"),
        ("return {1, 2}", "NotPlain"),
        ("return lambda: 1", "NotPlain"),
    ],
)
def test_whatever_leaves_the_function_is_its_ending(run: Run, body: str, what: str) -> None:
    outcome = run(f"def go(x):\n    {body}", 1)
    assert (outcome.status, outcome.what) == ("raised", what)


@pytest.mark.parametrize(
    ("body", "what"),
    [
        ("import os; os._exit(3)", "it exited with status 3 and no answer"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGTERM)", "SIGTERM"),
        ("import ctypes; ctypes.string_at(0)", "SIGSEGV"),
    ],
)
def test_crashed(run: Run, body: str, what: str) -> None:
    outcome = run(f"def go(x):\n    {body}", 1)
    assert (outcome.status, outcome.what) == ("crashed", what)
    assert run("def go(x): return x", 1).value == 1


def test_output_is_there_whatever_the_end(run: Run) -> None:
    for body, status in (("return 1", "returned"), ("raise OSError", "raised"), ("while True: pass", "limit")):
        outcome = run(f"import sys\ndef go(x):\n    print('out'); print('err', file=sys.stderr)\n    {body}", 1, cpu=50)
        assert (outcome.status, outcome.stdout, outcome.stderr) == (status, b"out\n", b"err\n")
        assert outcome.usage.output_bytes == 8


def test_killed_wherever_it_is(supervisor: Supervisor) -> None:
    running = submit(supervisor, "import time\ndef go(x): time.sleep(x)", 60, timeout=0)
    until(lambda: running.jail is not None)
    supervisor.kill(running, "changed my mind")
    assert running.future.result(10).status == "killed"
    assert running.future.result().what == "changed my mind"
    spec = spec_of("import time\ndef go(x): time.sleep(x)", timeout=0)
    template = supervisor.template(spec)
    calls = [supervisor.submit(template, request_of(60), spec, slots=1) for _ in range(3)]
    for call in reversed(calls):  # two stand in line
        supervisor.kill(call, "not you")
        assert call.future.result(10).what == "not you"
    assert run_in(supervisor, "def go(x): return x", 1).value == 1


def test_a_denied_path_names_the_grant(run: Run) -> None:
    outcome = run("def go(x): return open(x).read()", "/etc/passwd")
    assert (outcome.status, outcome.what) == ("denied", "file_system:read:/etc/passwd")
    assert outcome.refusals[-1] == Refusal(None, "file_system:read:/etc/passwd", "", "guest")


def test_an_error_about_something_else_is_no_denial(run: Run, tmp_path: Path) -> None:
    source = "def go(x):\n    try: open('/etc/optional')\n    except OSError: pass\n    open(x + '/absent')"
    outcome = run(source, str(tmp_path), read=(str(tmp_path),))
    assert outcome.status == "raised", outcome
    assert outcome.what == "FileNotFoundError"


# --- sizes


def test_large_requests_and_results_go_through(run: Run) -> None:
    data = os.urandom(6 << 20)
    outcome = run("def go(x): return x", data, result=8 << 20)
    assert outcome.value == data
    text = "ä" * (2 << 20)
    assert run("def go(x): return x", text, result=8 << 20).value == text


def test_a_request_that_nobody_reads_does_not_stop_the_host(supervisor: Supervisor) -> None:
    """It is larger than the socket holds, and the call ends before it has read it all."""
    spec = spec_of("def go(x): return 1", memory=4 << 20, timeout=2_000)
    template = supervisor.template(spec)
    template.ready.result(20)
    call = supervisor.submit(template, request_of(bytes(64 << 20)), spec)
    assert call.future.result(20).status in ("limit", "crashed")
    assert run_in(supervisor, "def go(x): return x", 1).value == 1


# --- order and number


def test_slots_are_kept_and_given_in_order(supervisor: Supervisor) -> None:
    spec = spec_of("import time\ndef go(x):\n    time.sleep(0.05)\n    return time.monotonic()", timeout=0)
    template = supervisor.template(spec)
    template.ready.result(20)
    calls = [supervisor.submit(template, request_of(n), spec, slots=1) for n in range(4)]
    ends = [call.future.result(20).value for call in calls]
    assert ends == sorted(ends)
    assert all(later - earlier >= 0.045 for earlier, later in itertools.pairwise(ends))


def test_many_calls_at_once_from_many_threads(supervisor: Supervisor) -> None:
    spec = spec_of("def go(x): return x * 2")
    template = supervisor.template(spec)
    template.ready.result(20)
    found: dict[int, Any] = {}

    def work(start: int) -> None:
        calls = {n: supervisor.submit(template, request_of(n), spec) for n in range(start, start + 40)}
        found.update({n: call.future.result(60).value for n, call in calls.items()})

    threads = [threading.Thread(target=work, args=(n * 40,)) for n in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {n: n * 2 for n in range(200)}


def test_a_burst_larger_than_any_buffer(supervisor: Supervisor) -> None:
    """Orders to the zygote and news from it cross: neither side may wait for the other with its hands full."""
    spec = spec_of("def go(x): return x", timeout=60_000)
    template = supervisor.template(spec)
    calls = [supervisor.submit(template, request_of(n), spec) for n in range(1_000)]
    assert [call.future.result(100).value for call in calls] == list(range(1_000))


def mounts() -> int:
    return len(Path("/proc/self/mountinfo").read_text().splitlines())


def test_300_calls_leave_nothing(supervisor: Supervisor) -> None:
    def round_of(count: int) -> None:
        for n in range(count):
            outcome = run_in(supervisor, "def go(x):\n    if x % 5 == 0: raise OSError\n    return x", n)
            assert outcome.status in ("returned", "raised")

    def at_rest() -> tuple[int, int, int]:
        """Once its calls are reaped and its pool is full again."""
        seen: list[tuple[int, int, int]] = []
        end = time.monotonic() + 20
        while time.monotonic() < end:
            ready = len(supervisor._jails)  # as many as recent demand asks for, with three descriptors each
            seen.append((descriptors() - 3 * ready, len(below(os.getpid())) - ready, mounts()))
            if len(seen) > 10 and len(set(seen[-10:])) == 1:
                return seen[-1]
            time.sleep(0.05)
        raise AssertionError(seen[-10:])

    round_of(20)
    before = at_rest()
    round_of(300)
    after = at_rest()
    assert after == before


def test_templates_that_are_dropped_leave_nothing(supervisor: Supervisor) -> None:
    before = descriptors()
    for n in range(8):
        spec = spec_of(f"def go(x): return {n}")
        template = supervisor.template(spec)
        template.ready.result(20)
        supervisor.submit(template, request_of(1), spec).future.result(20)
        supervisor.drop(template)
        until(lambda template=template: bool(template.gone))  # type: ignore[misc]
    until(lambda: descriptors() == before)
    until(lambda: not supervisor._by_number)


# --- death and replacement


def test_a_dead_template_is_replaced_and_its_call_ends_once(supervisor: Supervisor) -> None:
    source = "import os, time\ndef go(x):\n    time.sleep(x)\n    return 'done'"
    spec = spec_of(source)
    template = supervisor.template(spec)
    template.ready.result(20)
    supervisor.drop(template)
    until(lambda: bool(template.gone))
    call = supervisor.submit(template, request_of(0), spec)
    assert call.future.result(10).status == "crashed"
    again = supervisor.template(spec)
    assert again is not template
    assert supervisor.submit(again, request_of(0), spec).future.result(20).value == "done"


def zygotes(supervisor: Supervisor) -> list[int]:
    return sorted(below(supervisor._process.pid) | {supervisor._process.pid})


def test_a_dead_zygote_is_told_and_its_calls_end(supervisor: Supervisor) -> None:
    call = submit(supervisor, "import time\ndef go(x): time.sleep(x)", 60, timeout=0)
    until(lambda: call.jail is not None)
    every = zygotes(supervisor)
    os.kill(supervisor._process.pid, signal.SIGKILL)
    if supervisor.features.namespaces:  # the process that was started is a bridge: the zygote is its child
        for pid in every:
            if pid != supervisor._process.pid:
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    continue
    outcome = call.future.result(10)
    assert outcome.status == "crashed", outcome
    assert "zygote" in outcome.what
    until(lambda: not supervisor.alive)
    with pytest.raises(Unfit, match="zygote has ended"):
        supervisor.template(spec_of("def go(x): return x"))
    until(lambda: not [pid for pid in every if os.path.exists(f"/proc/{pid}") and pid in below(1)])
    supervisor.close()  # reaps
    assert supervisor._process.returncode is not None
    other = Supervisor()
    try:
        assert run_in(other, "def go(x): return x", 1).value == 1
    finally:
        other.close()


def test_closing_ends_calls_and_leaves_nothing() -> None:
    before = descriptors()
    supervisor = Supervisor()
    call = submit(supervisor, "import time\ndef go(x): time.sleep(x)", 60, timeout=0)
    until(lambda: call.jail is not None)
    every = zygotes(supervisor)
    supervisor.close()
    supervisor.close()
    assert call.future.result(1).status == "killed"
    assert not supervisor.alive
    assert descriptors() == before
    until(lambda: not any(os.path.exists(f"/proc/{pid}") for pid in every))


def test_a_fork_of_the_host_is_told_that_the_jails_are_not_its_own(supervisor: Supervisor) -> None:
    spec = spec_of("def go(x): return x")
    template = supervisor.template(spec)
    template.ready.result(20)
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            assert not supervisor.alive
            for attempt in (lambda: supervisor.template(spec), lambda: supervisor.submit(template, b"", spec)):
                try:
                    attempt()
                except Unfit:
                    continue
                os._exit(2)
            supervisor.close()
            code = 0
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert supervisor.submit(template, request_of(7), spec).future.result(20).value == 7


HOST = """
import os, sys, time
sys.path.insert(0, {src!r})
from remit.jail import channel, interpreter
from remit.jail.spec import Code, JailSpec
from remit.jail.supervisor import Supervisor
supervisor = Supervisor(simulate={simulate!r})
source = "import os, time\\ndef go(x):\\n    {body}"
spec = JailSpec(owner="a", code=Code("module", module="m", attribute="go", sources={{"m": ("m.py", source, False)}}),
                path=interpreter.python_path(), interpreter=interpreter.python_roots(), timeout={timeout}, cpu={cpu})
template = supervisor.template(spec)
template.ready.result(20)
call = supervisor.submit(template, channel.pack({{"args": [1], "kwargs": {{}}}}), spec)
while call.jail is None: time.sleep(0.01)
print("running", flush=True)
{then}
"""


@pytest.fixture
def host() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    started: list[subprocess.Popen[str]] = []

    def start(**words: Any) -> subprocess.Popen[str]:
        src = str(Path(interpreter.__file__).resolve().parents[2])
        given = {"src": src, "simulate": {}, "timeout": 0, "cpu": 0, "then": "time.sleep(600)", **words}
        process = subprocess.Popen([sys.executable, "-c", HOST.format(**given)], stdout=subprocess.PIPE, text=True)
        started.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == "running\n"
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


@pytest.mark.parametrize("simulate", [{}, {"namespaces": False}], ids=["full", "no namespaces"])
def test_when_the_host_is_killed_everything_below_ends(host: Any, simulate: dict[str, Any]) -> None:
    process = host(body="time.sleep(600)", simulate=simulate)
    every = below(process.pid)
    assert len(every) >= 3  # zygote, template, call
    process.kill()
    process.wait()
    until(lambda: not any(os.path.exists(f"/proc/{pid}") for pid in every))


@pytest.mark.parametrize("limit", [{"timeout": 700}, {"cpu": 400}], ids=["timeout", "cpu"])
def test_a_stopped_host_changes_no_limit(host: Any, limit: dict[str, int]) -> None:
    process = host(body="while True: pass", **limit)
    burning = [pid for pid in below(process.pid) if state(pid) == "R"]
    until(lambda: bool([pid for pid in below(process.pid) if state(pid) == "R"]), 5)
    burning = [pid for pid in below(process.pid) if state(pid) == "R"]
    process.send_signal(signal.SIGSTOP)
    try:
        until(lambda: not any(state(pid) == "R" for pid in burning), 5)
    finally:
        process.send_signal(signal.SIGCONT)


def state(pid: int) -> str:
    try:
        with open(f"/proc/{pid}/stat") as stat:
            return stat.read().rpartition(")")[2].split()[0]
    except OSError:
        return "gone"


def test_a_host_whose_interpreter_is_locked_changes_no_limit(host: Any) -> None:
    """A thread holds the GIL for two seconds: the call is gone long before."""
    then = "import ctypes\nctypes.PyDLL(None).usleep(2_000_000)\nprint(call.future.result(5).what, flush=True)"
    process = host(body="while True: pass", timeout=300, then=then)
    until(lambda: not [pid for pid in below(process.pid) if state(pid) == "R"], 1.5)
    assert process.stdout.readline() == "timeout\n"


# --- siblings


def test_a_call_cannot_end_its_siblings(supervisor: Supervisor) -> None:
    source = "import os, signal, time\ndef go(x):\n    if x: time.sleep(0.5); return 'alive'\n"
    source += "    try: os.kill(-1, signal.SIGKILL)\n    except OSError as error: return error.errno\n    return 0"
    sleeping = submit(supervisor, source, 1)
    until(lambda: sleeping.jail is not None)
    for _ in range(3):
        assert submit(supervisor, source, 0).future.result(10).status in ("returned", "crashed")
    assert sleeping.future.result(10).value == "alive"


# --- grants of root


def test_what_only_root_may_read_can_be_granted(run: Run, tmp_path: Path, shared: Supervisor) -> None:
    if os.getuid() != 0 or not shared.features.namespaces:
        pytest.skip("needs root: a file that only root can read")
    private = tmp_path / "private"
    private.mkdir(mode=0o700)
    (private / "file").write_text("of root")
    (private / "file").chmod(0o600)
    source = "import os\ndef go(x):\n    open(x + '/new', 'w').write('of the jail')\n"
    source += "    return open(x + '/file').read(), os.getuid()"
    outcome = run(source, str(private), read=(str(private),), write=(str(private),))
    assert outcome.status == "returned", outcome
    assert outcome.value[0] == "of root"
    assert outcome.value[1] != 0
    made = (private / "new").stat()
    assert (made.st_uid, made.st_gid) == (0, 0)
    (private / "new").unlink()
    os.chown(private, 1234, 1234)  # whoever owns the granted path: not only root
    os.chown(private / "file", 1234, 1234)
    assert run(source, str(private), read=(str(private),), write=(str(private),), threads=3).value[0] == "of root"


def test_a_grant_that_the_jail_cannot_use_is_an_error_that_names_it(tmp_path: Path) -> None:
    private = tmp_path / "private"
    private.mkdir()
    (private / "file").write_text("x")
    private.chmod(0o000)
    supervisor = Supervisor(simulate={"namespaces": False})
    try:
        if os.getuid() == 0 and not supervisor.features.namespaces:
            spec = spec_of("def go(x): return x", read=(str(private),))
            outcome = None
            try:
                supervisor.template(spec).ready.result(20)
            except Unfit as error:
                outcome = str(error)
            assert outcome is not None
            assert str(private) in outcome
            return
        with pytest.raises(Unfit, match="private"):
            supervisor.template(spec_of("def go(x): return x", read=(str(private),))).ready.result(20)
    finally:
        supervisor.close()
        private.chmod(0o755)


def test_a_path_that_is_not_there_is_an_error_that_names_it(shared: Supervisor, tmp_path: Path) -> None:
    with pytest.raises(Unfit, match="absent"):
        shared.template(spec_of("def go(x): return x", read=(str(tmp_path / "absent"),))).ready.result(20)


def test_the_working_directory(run: Run, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("here")
    tmp_path.chmod(0o755)
    source = "import os\ndef go(x): return os.getcwd(), open('file').read()"
    folder = str(tmp_path)
    assert run(source, 1, read=(folder,), cwd=folder).value == [folder, "here"]
    assert run("import os\ndef go(x): return os.getcwd()", 1).value == "/"


# --- imports


@pytest.mark.parametrize(
    ("source", "fields", "said"),
    [
        ("import absent_module_x", {}, "absent_module_x"),
        ("1 / 0", {}, "division by zero"),
        ("open('/etc/shadow')", {}, "shadow"),
        ("def go(", {}, "never closed"),
        ("def other(x): return x", {}, "go"),
        ("while True: pass", {"import_cpu": 200}, "import: cpu"),
        ("import time; time.sleep(60)", {"import_timeout": 300}, "import: timeout"),
        ("x = bytearray(200 << 20)", {"import_memory": 100 << 20}, "memory"),
        ("import os; os._exit(0)", {}, "ended"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", {}, "ended"),
    ],
)
def test_an_import_that_fails_says_why(shared: Supervisor, source: str, fields: dict[str, Any], said: str) -> None:
    with pytest.raises(Unfit) as caught:
        shared.template(spec_of(source, **fields)).ready.result(30)
    text = str(caught.value) + str(caught.value.error)
    assert said.lower() in text.lower() or (said == "memory" and "MemoryError" in text), text


def test_a_denied_import_names_the_grant(shared: Supervisor) -> None:
    with pytest.raises(Unfit) as caught:
        shared.template(spec_of("open('/etc/passwd')\ndef go(x): return x")).ready.result(30)
    assert caught.value.error["needs"] == "file_system:read:/etc/passwd"


def test_a_template_that_works_on_by_itself_is_ended(supervisor: Supervisor) -> None:
    source = "import signal\ndef burn(*_):\n    while True: pass\nsignal.signal(signal.SIGALRM, burn)\n"
    source += "signal.setitimer(signal.ITIMER_REAL, 0.1)\ndef go(x): return x"
    template = supervisor.template(spec_of(source))
    template.ready.result(20)
    until(lambda: bool(template.gone), 20)
    assert "CPU between its calls" in template.gone
    assert run_in(supervisor, "def go(x): return x", 1).value == 1


def test_a_listener_that_raises_ends_nothing() -> None:
    heard: list[str] = []

    def listen(owner: str, refusal: Refusal) -> None:
        heard.append(refusal.what)
        raise RuntimeError(owner)

    supervisor = Supervisor(on_refusal=listen)
    try:
        source = "import socket\ndef go(x):\n    try: socket.socket()\n    except OSError: return x"
        for _ in range(3):
            assert run_in(supervisor, source, 1).value == 1
        assert heard == ["socket"] * 3
    finally:
        supervisor.close()


# --- programs


def program_spec(*programs: str, **fields: Any) -> JailSpec:
    paths = tuple(found for found in (shutil.which(name) for name in programs) if found)
    given = {
        "owner": "a",
        "code": Code("program"),
        "interpreter": interpreter.system_roots(),
        "devices": True,
        **fields,
    }
    return JailSpec(execute=paths, **given)


def run_program(
    supervisor: Supervisor, argv: list[str], stdin: bytes = b"", **fields: Any
) -> tuple[Ending, bytes, bytes]:
    spec = program_spec(*fields.pop("programs", [argv[0]]), **fields)
    template = supervisor.template(spec)
    template.ready.result(20)
    pairs = [socket.socketpair() for _ in range(3)]
    request = {"program": shutil.which(argv[0]), "argv": argv, "cwd": "/", "environment": [["PATH", "/usr/bin:/bin"]]}
    call = supervisor.submit(template, channel.pack(request), spec, stdio=[theirs.fileno() for _, theirs in pairs])
    pairs[0][0].sendall(stdin)
    until(lambda: call.jail is not None or call.future.done())
    for _, theirs in pairs:
        theirs.close()
    pairs[0][0].shutdown(socket.SHUT_WR)
    outcome = call.future.result(30)
    read = [b"".join(iter(lambda ours=ours: ours.recv(65536), b"")) for ours, _ in pairs[1:]]
    for ours, _ in pairs:
        ours.close()
    return outcome, read[0], read[1]


def test_a_program_runs_with_the_hosts_descriptors(shared: Supervisor) -> None:
    outcome, out, _ = run_program(shared, ["cat"], b"through a program")
    assert (outcome.status, outcome.exit_status, out) == ("returned", 0, b"through a program")


def test_a_programs_status_is_its_own(shared: Supervisor) -> None:
    assert run_program(shared, ["sh", "-c", "exit 3"])[0].exit_status == 3
    outcome, _, error = run_program(shared, ["ls", "/absent"])
    assert outcome.exit_status == 2
    assert b"absent" in error
    assert run_program(shared, ["sh", "-c", "kill -TERM $$"])[0].what == "SIGTERM"


def test_a_program_sees_nothing_but_its_grants(shared: Supervisor, tmp_path: Path) -> None:
    outcome, out, error = run_program(shared, ["cat", "/etc/passwd"])
    assert outcome.exit_status == 1
    assert out == b""
    assert b"/etc/passwd" in error


@pytest.mark.parametrize("kept", [1, 4])
def test_a_pipeline_needs_processes(shared: Supervisor, kept: int) -> None:
    if kept > 1 and not shared.features.call_userns:
        pytest.skip("needs user namespaces: more than one process is refused")
    line = "cat | tr a-z A-Z; exit 5"
    outcome, out, _ = run_program(shared, ["sh", "-c", line], b"loud", programs=["sh", "cat", "tr"], processes=kept)
    if kept == 1:
        assert out == b""
        assert outcome.exit_status != 5 or b"LOUD" not in out
    else:
        assert (outcome.status, outcome.exit_status, out) == ("returned", 5, b"LOUD")


def test_a_program_of_several_processes_ends_as_it_ends(shared: Supervisor) -> None:
    if not shared.features.call_userns:
        pytest.skip("needs user namespaces: more than one process is refused")
    many = {"programs": ["sh", "sleep"], "processes": 4}
    assert run_program(shared, ["sh", "-c", "exit 3"], **many)[0].exit_status == 3
    assert run_program(shared, ["sh", "-c", "kill -KILL $$"], **many)[0].exit_status == 137
    begun = time.monotonic()
    outcome, _, _ = run_program(shared, ["sh", "-c", "sleep 60 & exit 4"], timeout=0, **many)
    assert outcome.exit_status == 4
    assert time.monotonic() - begun < 20  # what it left behind ended with it


def test_a_program_that_is_not_granted_is_not_executed(shared: Supervisor) -> None:
    spec = program_spec("cat")
    template = shared.template(spec)
    template.ready.result(20)
    request = {"program": shutil.which("ls"), "argv": ["ls"], "cwd": "/", "environment": []}
    null = os.open(os.devnull, os.O_RDWR)
    try:
        outcome = shared.submit(template, channel.pack(request), spec, stdio=[null] * 3).future.result(20)
    finally:
        os.close(null)
    assert (outcome.status, outcome.what) == ("raised", "exec")
    assert outcome.used in (2, 13)  # ENOENT, EACCES
