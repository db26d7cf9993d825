"""The zygote: a clean, single-threaded interpreter that makes templates, forks calls, keeps their time, reaps them.

It never imports foreign code and never decodes what a jail sent. It is a process of its own, so that limits hold while
the host is stopped or a thread of it holds the GIL; in a pid namespace it is the first process, so that the kernel
ends everything below with it. The host speaks to it by JSON datagrams over one SOCK_SEQPACKET socket:

    host -> zygote   template {t} + plan   warm {t, n}   spawn {t, c} + stdio   start {c, deadline, cpu}   kill {c, why}   drop {t}
    zygote -> host   hello {features}   listener {t} + fd   ready {t, ...}   child {t, c, pid} + socket, stdout, stderr
                     exit {c, status, why, ...}   gone {t, ...}

A call is believed in nothing: its pid comes from the kernel (SCM_CREDENTIALS, unix(7)), its walls are read from
/proc before the host hears of it, its limits are set from outside (prlimit(2)), its end comes from wait4(2).
"""

from __future__ import annotations

import _socket
import gc
import json
import os
import resource
import select
import signal
import struct
import sys
import time
from _socket import AF_UNIX, SCM_CREDENTIALS, SCM_RIGHTS, SO_PASSCRED, SOCK_SEQPACKET, SOCK_STREAM, SOL_SOCKET
from binascii import a2b_base64
from heapq import heappop, heappush

from remit.jail import _syscall_unsafe as system
from remit.jail import _uapi, channel, contain, guest, landlock, limits, namespaces

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import ModuleType
    from typing import Any

    from remit.jail.spec import Plan

__all__ = ["main"]

_CREDENTIALS = struct.Struct("3i")
_DATAGRAM = 1 << 17
_MILLISECOND = 1_000_000
_THREAD_STACK = 1 << 20
_CPU_STEP = 2 * _MILLISECOND
_REFILL_DELAY = 2 * _MILLISECOND


def _send(sock: _socket.socket, message: dict[str, Any], descriptors: list[int] | None = None) -> None:
    rights = [(SOL_SOCKET, SCM_RIGHTS, struct.pack(f"{len(descriptors)}i", *descriptors))] if descriptors else []
    sock.sendmsg([json.dumps(message).encode()], rights)


def _receive(sock: _socket.socket) -> tuple[dict[str, Any] | None, list[int], int]:
    """Return one message, the descriptors that came with it, and the sender's pid (0 if the kernel did not say)."""
    data, ancillary, _, _ = sock.recvmsg(_DATAGRAM, 256, _socket.MSG_CMSG_CLOEXEC)
    descriptors: list[int] = []
    pid = 0
    for level, kind, content in ancillary:
        if level == SOL_SOCKET and kind == SCM_RIGHTS:
            count = len(content) // 4
            descriptors += struct.unpack(f"{count}i", content[: 4 * count])
        elif level == SOL_SOCKET and kind == SCM_CREDENTIALS:
            pid = _CREDENTIALS.unpack(content[: _CREDENTIALS.size])[0]
    return (json.loads(data) if data else None), descriptors, pid


class _Template:
    """A process that has imported the function, and waits to be forked."""

    def __init__(self, number: int, pid: int, sock: _socket.socket, plan: Plan) -> None:
        self.number = number
        self.pid = pid
        self.sock = sock
        self.plan = plan
        self.ready = False
        self.filters = 0
        self.want = 0
        self.warm = 0
        self.failed = 0  # forks in a row that did not become a call
        self.started = time.monotonic_ns()


class _Child:
    """One call, from the order to fork it until it is reaped."""

    def __init__(self, number: int, template: _Template, sock: _socket.socket, output: list[int]) -> None:
        self.number = number
        self.template = template
        self.sock: _socket.socket | None = sock
        self.output = output
        self.pid = 0
        self.warm = True
        self.why = ""
        self.cpu = 0  # the limit in ns, 0 until it starts
        self.base = 0  # resident bytes that it has from its template


class Zygote:
    """The loop. One thread, no waiting but in epoll."""

    def __init__(
        self, control: _socket.socket, host: int, features: dict[str, Any], bootstrap: ModuleType | None
    ) -> None:
        self.control = control
        self.features = features
        self.bootstrap = bootstrap
        self.templates: dict[int, _Template] = {}
        self.children: dict[int, _Child] = {}
        self.by_pid: dict[int, _Template | _Child] = {}
        self.by_sock: dict[int, _Template | _Child] = {}
        self.timers: list[tuple[int, int, str]] = []
        self.serial = 1 << 32  # the numbers of warm calls; the host names those that it asks for
        self.pid = os.getpid()
        self.epoll = select.epoll()
        self.null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        wake_read, wake_write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self.wake = wake_read
        signal.signal(signal.SIGCHLD, lambda _number, _frame: None)
        signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
        for descriptor in (control.fileno(), host, wake_read):
            self.epoll.register(descriptor, select.EPOLLIN)
        self.host = host

    def run(self) -> None:
        """Serve until the host ends or closes the socket; then everything below ends too."""
        while True:
            for descriptor, _ in self.epoll.poll(self._patience()):
                if descriptor == self.host:
                    self._end()
                elif descriptor == self.wake:
                    try:
                        os.read(self.wake, 4096)
                    except BlockingIOError:
                        pass
                elif descriptor == self.control.fileno():
                    self._command()
                else:
                    self._heard(descriptor)
            self._fire()
            self._reap()

    # --- time

    def _patience(self) -> float:
        if not self.timers:
            return -1
        return max(0.0, (self.timers[0][0] - time.monotonic_ns()) / 1e9)

    def _fire(self) -> None:
        now = time.monotonic_ns()
        while self.timers and self.timers[0][0] <= now:
            _, number, kind = heappop(self.timers)
            if kind == "import":
                self._import_time(number)
                continue
            if kind == "fill":
                template = self.templates.get(number)
                if template is not None:
                    self._fill(template)
                continue
            child = self.children.get(number)
            if child is None or child.why:
                continue
            if kind == "deadline":
                self._kill(child, "timeout")
            elif kind == "cpu":
                self._cpu_time(child, now)

    def _cpu_time(self, child: _Child, now: int) -> None:
        try:
            left = child.cpu - limits.cpu_clock(child.pid)
        except OSError:
            return
        if left <= 0:
            self._kill(child, "cpu")
        else:  # it cannot use more than all cores until then; closer in, look every two milliseconds
            heappush(self.timers, (now + max(left // self.features["cores"], _CPU_STEP), child.number, "cpu"))

    def _import_time(self, number: int) -> None:
        template = self.templates.get(number)
        if template is None or template.ready:
            return
        try:
            used = limits.cpu_clock(template.pid)
        except OSError:
            return
        now = time.monotonic_ns()
        wall = now - template.started
        if wall >= template.plan["import_timeout"] * _MILLISECOND:
            self._lose(template, "import: timeout")
        elif used >= template.plan["import_cpu"] * _MILLISECOND:
            self._lose(template, "import: cpu")
        else:
            heappush(self.timers, (now + 50 * _MILLISECOND, number, "import"))

    # --- the host

    def _command(self) -> None:
        message, descriptors, _ = _receive(self.control)
        if message is None:
            self._end()
            return
        operation = message["op"]
        if operation == "start":
            self._start(message)
        elif operation == "warm":
            template = self.templates.get(message["t"])
            if template is not None:
                template.want = message["n"]
                self._fill(template)
        elif operation == "spawn":
            template = self.templates.get(message["t"])
            if template is not None and template.ready:
                self._spawn(template, message["c"], descriptors)
            else:
                _send(self.control, {"op": "exit", "c": message["c"], "status": None, "why": "no template"})
        elif operation == "kill":
            child = self.children.get(message["c"])
            if child is not None:
                self._kill(child, message["why"])
        elif operation == "template":
            self._make_template(message["t"], descriptors.pop())
        elif operation == "drop":
            template = self.templates.get(message["t"])
            if template is not None:
                self._lose(template, "dropped")
        for descriptor in descriptors:
            os.close(descriptor)

    def _start(self, message: dict[str, Any]) -> None:
        child = self.children.get(message["c"])
        if child is None:
            return
        if message["cpu"]:
            child.cpu = message["cpu"]
            self._cpu_time(child, time.monotonic_ns())
        if message["deadline"]:
            heappush(self.timers, (message["deadline"], child.number, "deadline"))
        if child.warm:
            child.warm = False
            child.template.warm -= 1
            # Not now: the call that has just begun wants the processor more than the next one does.
            heappush(self.timers, (time.monotonic_ns() + _REFILL_DELAY, child.template.number, "fill"))

    def _end(self) -> None:
        for thing in list(self.by_pid.values()):
            try:
                os.kill(thing.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        os._exit(0)

    # --- templates

    def _make_template(self, number: int, plan_file: int) -> None:
        with open(plan_file, "rb") as file:
            plan: Plan = json.loads(file.read())
        ours, theirs = _socket_pair(SOCK_SEQPACKET)
        pid = os.fork()
        if pid == 0:
            try:
                self._be_template(plan, theirs)
            finally:
                os._exit(1)
        theirs.close()
        template = _Template(number, pid, ours, plan)
        self.templates[number] = self.by_pid[pid] = self.by_sock[ours.fileno()] = template
        self.epoll.register(ours.fileno(), select.EPOLLIN)
        heappush(self.timers, (template.started + 50 * _MILLISECOND, number, "import"))

    def _lose(self, template: _Template, why: str) -> None:
        """Forget a template and end it, with its warm calls; calls that run go on to their own end."""
        if self.templates.pop(template.number, None) is None:
            return
        self.epoll.unregister(template.sock.fileno())
        del self.by_sock[template.sock.fileno()]
        template.sock.close()
        try:
            os.kill(template.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        for child in [child for child in self.children.values() if child.template is template]:
            if child.warm:
                self._kill(child, "template")
        _send(self.control, {"op": "gone", "t": template.number, "why": why})

    def _fill(self, template: _Template) -> None:
        while template.ready and template.warm < template.want and template.number in self.templates:
            self.serial += 1
            self._spawn(template, self.serial, [])

    def _spawn(self, template: _Template, number: int, stdio: list[int]) -> None:
        ours, theirs = _socket_pair(SOCK_STREAM)
        ours.setsockopt(SOL_SOCKET, SO_PASSCRED, 1)
        output: list[int] = []
        if not stdio:
            output = [_memory_file(template.plan["output"]) for _ in range(2)]
        child = _Child(number, template, ours, output)
        child.warm = not stdio and number >= 1 << 32
        if child.warm:
            template.warm += 1
        self.children[number] = self.by_sock[ours.fileno()] = child
        self.epoll.register(ours.fileno(), select.EPOLLIN)
        given = stdio if stdio else [self.null, *output]
        try:
            _send(template.sock, {"c": number}, [theirs.fileno(), *given])
        except OSError:
            self._abandon(child)
            self._lose(template, "its socket broke")
        theirs.close()

    def _abandon(self, child: _Child) -> None:
        """Forget a call that never became one."""
        self.children.pop(child.number, None)
        self._quiet(child)
        for descriptor in child.output:
            os.close(descriptor)
        if child.warm:
            child.template.warm -= 1
        else:
            _send(self.control, {"op": "exit", "c": child.number, "status": None, "why": "not forked"})

    def _quiet(self, child: _Child) -> None:
        if child.sock is not None:
            self.epoll.unregister(child.sock.fileno())
            del self.by_sock[child.sock.fileno()]
            child.sock.close()
            child.sock = None

    def _heard(self, descriptor: int) -> None:
        thing = self.by_sock.get(descriptor)
        if isinstance(thing, _Child):
            self._hello(thing)
        elif thing is not None:
            self._from_template(thing)

    def _from_template(self, template: _Template) -> None:
        try:
            message, descriptors, _ = _receive(template.sock)
        except (OSError, ValueError):
            message, descriptors = None, []
        if message is None:
            self._lose(template, "ended")
        elif "listener" in message and not template.ready:
            _send(self.control, {"op": "listener", "t": template.number, "pid": template.pid}, descriptors)
        elif "error" in message:
            _send(self.control, {"op": "failed", "t": template.number, "error": message["error"]})
            self._lose(template, "failed")
        elif "ready" in message and not template.ready:
            self._ready(template, message)
        for descriptor in descriptors:
            os.close(descriptor)

    def _ready(self, template: _Template, message: dict[str, Any]) -> None:
        """Check a template from outside after its import, set what its calls inherit, and let it be forked."""
        status = _status(template.pid)
        problem = self._walls(template, status)
        if not problem and status["Threads"] != "1":
            problem = f"the import started {int(status['Threads']) - 1} thread(s), which a fork would lose"
        if problem:
            _send(self.control, {"op": "failed", "t": template.number, "error": {"unfit": problem}})
            self._lose(template, "unfit")
            return
        data = limits.data_bytes(template.pid)
        bound = {resource.RLIMIT_DATA: data + template.plan["memory"]}
        limits.lower_other(template.pid, template.plan["identity"], bound)
        template.filters = int(status["Seccomp_filters"])
        template.ready = True
        _send(
            self.control,
            {
                "op": "ready",
                "t": template.number,
                "data": data,
                "import_ns": time.monotonic_ns() - template.started,
                "describe": message.get("describe"),
            },
        )
        self._fill(template)

    def _walls(self, template: _Template, status: dict[str, str]) -> str:
        """Return which wall is not there, or ""."""
        identity = template.plan["identity"]
        if identity and status["Uid"].split() != [str(identity[0])] * 4:
            return f"its uid is {status['Uid']}"
        for field, expected in (("CapEff", 0), ("CapPrm", 0), ("NoNewPrivs", 1), ("Seccomp", 2)):
            if int(status[field], 16) != expected:
                return f"{field} is {status[field]}"
        return ""

    # --- calls

    def _hello(self, child: _Child) -> None:
        """Hear that a call is locked down; check it from outside; hand it to the host."""
        sock, template = child.sock, child.template
        if sock is None:
            return
        try:
            data, ancillary, _, _ = sock.recvmsg(16, 256, _socket.MSG_CMSG_CLOEXEC)
        except OSError:
            data, ancillary = b"", []
        pid = 0
        for _, kind, content in ancillary:
            if kind == SCM_CREDENTIALS:
                pid = _CREDENTIALS.unpack(content[: _CREDENTIALS.size])[0]
            elif kind == SCM_RIGHTS:
                for descriptor in struct.unpack(f"{len(content) // 4}i", content[: len(content) // 4 * 4]):
                    os.close(descriptor)
        if data != b"hello" or pid in self.by_pid or pid <= 0:
            self._broken(child)
            return
        try:
            status = _status(pid)
            filters = template.filters + bool(template.plan["tail"])
            fit = (
                int(status["PPid"]) == self.pid
                and not self._walls(template, status)
                and int(status["Seccomp_filters"]) == filters
                and status["Threads"] == "1"
            )
            limits.lower_other(pid, template.plan["identity"], self._call_limits(template.plan))
            if fit and template.plan["tmp"]:
                self._give_scratch(pid, template.plan["tmp"])
        except OSError:
            fit = False
            status = {}
        child.pid = pid
        if not fit:
            self._broken(child)
            return
        template.failed = 0
        child.base = int(status["VmHWM"].split()[0]) * 1024
        self.by_pid[pid] = child
        sock.setsockopt(SOL_SOCKET, SO_PASSCRED, 0)
        message = {"op": "child", "t": template.number, "c": child.number, "pid": pid, "base": child.base}
        _send(self.control, message, [sock.fileno(), *child.output])
        self._quiet(child)
        for descriptor in child.output:
            os.close(descriptor)
        child.output = []

    def _call_limits(self, plan: Plan) -> dict[int, int]:
        values = {resource.RLIMIT_NOFILE: contain.CHANNEL + 1 + plan["file_handles"]}
        if plan["cpu"]:  # the backstop, whole seconds; the zygote's own clock is exact
            values[resource.RLIMIT_CPU] = plan["cpu"] // 1000 + 2
        if plan["call_userns"]:  # it counts the uid's tasks of the whole host, but within a user namespace it is exact
            values[resource.RLIMIT_NPROC] = plan["tasks"]
        return values

    def _give_scratch(self, pid: int, size: int) -> None:
        """Mount an empty tmpfs of `size` bytes as the call's /tmp, in its own mount namespace, from outside."""
        context = system.fsopen("tmpfs")
        inodes = str(max(64, size >> 12))
        for key, value in (("size", str(size)), ("nr_inodes", inodes), ("mode", "0777")):
            system.fsconfig_set(context, key, value)
        system.fsconfig_set(context, "", None)
        scratch = system.fsmount(context, _uapi.MOUNT_ATTR_NOSUID | _uapi.MOUNT_ATTR_NODEV | _uapi.MOUNT_ATTR_NOEXEC)
        theirs = os.open(f"/proc/{pid}/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
        ours = os.open("/proc/self/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
        try:
            system.setns(theirs, _uapi.CLONE_NEWNS)
            try:
                system.move_mount(scratch, "/scratch/tmp")
            finally:
                system.setns(ours, _uapi.CLONE_NEWNS)
        finally:
            for descriptor in (context, scratch, theirs, ours):
                os.close(descriptor)

    def _broken(self, child: _Child) -> None:
        """Handle a fork that did not lock itself down: end it; a template that keeps making such is ended too."""
        if child.pid > 0 and child.pid != child.template.pid and child.pid not in self.by_pid:
            try:
                os.kill(child.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        self._abandon(child)
        child.template.failed += 1
        if child.template.failed >= 3:
            self._lose(child.template, "its forks do not lock themselves down")
        else:
            self._fill(child.template)

    def _kill(self, child: _Child, why: str) -> None:
        if not child.why:
            child.why = why
            if child.pid:
                try:
                    os.kill(child.pid, signal.SIGKILL)
                except ProcessLookupError:
                    pass

    def _reap(self) -> None:
        while True:
            try:
                pid, status, usage = os.wait4(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            thing = self.by_pid.pop(pid, None)
            if isinstance(thing, _Child):
                self._gone(thing, status, usage)
            elif thing is not None:
                self._lose(thing, f"ended: {_signal_of(status)}")

    def _gone(self, child: _Child, status: int, usage: resource.struct_rusage) -> None:
        del self.children[child.number]
        if child.warm:
            child.template.warm -= 1
            if child.number >= 1 << 32 and not child.why:
                self._fill(child.template)
        message = {
            "op": "exit",
            "c": child.number,
            "status": status,
            "why": child.why,
            "user": usage.ru_utime,
            "system": usage.ru_stime,
            "peak": max(0, usage.ru_maxrss * 1024 - child.base),
        }
        _send(self.control, message)

    # --- being a template

    def _be_template(self, plan: Plan, sock: _socket.socket) -> None:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        parent = self.pid
        bootstrap = self.bootstrap
        null = self.null
        os.dup2(null, 0)
        os.dup2(null, 1)
        os.dup2(null, 2)
        place = sock.detach()
        os.dup2(place, contain.CHANNEL, inheritable=False)
        system.close_range(contain.CHANNEL + 1)
        sock = _socket.socket(AF_UNIX, SOCK_SEQPACKET, 0, contain.CHANNEL)
        sibling_layer = landlock.sibling_layer(plan["abi"])
        watch = guest.Watch(plan["roots"], plan["writable"])
        try:
            contain.template(plan, parent, lambda listener: _send(sock, {"listener": True}, [listener]))
        except OSError as error:
            _send(sock, {"error": {"wall": str(error)}})
            return
        watch.install()
        sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
        try:
            function = guest.load(plan, bootstrap)
            described = bootstrap.describe(function) if bootstrap and plan["code"].get("describe") else None
        except BaseException as error:  # noqa: BLE001 - whatever leaves the import is why there is no template
            raised = guest._explain(error)
            raised["needs"] = watch.missing(error)
            raised["message"] = raised["message"][:2000]
            raised["traceback"] = raised["traceback"][-8000:]
            _send(sock, {"error": raised})
            return
        gc.collect()
        gc.freeze()
        tail = a2b_base64(plan["tail"])
        _send(sock, {"ready": True, "describe": described})
        while True:
            message, descriptors, _ = _receive(sock)
            if message is None:
                return
            if system.clone(plan["call_flags"]) == 0:
                contain.call(plan, parent, tail, sibling_layer, descriptors)
                os.write(contain.CHANNEL, b"hello")
                if function is None:
                    guest.execute(contain.CHANNEL)
                else:
                    guest.serve(contain.CHANNEL, function, watch, bootstrap)
                os._exit(0)
            for descriptor in descriptors:
                os.close(descriptor)


def _bits(work: Callable[[], int]) -> int:
    """Run `work` in a fork and return its answer, a number below 128; 0 when it fails."""
    pid = os.fork()
    if pid == 0:
        answer = 0
        try:
            answer = work()
        finally:
            os._exit(answer)
    _, status = os.waitpid(pid, 0)
    return os.WEXITSTATUS(status) if os.WIFEXITED(status) else 0


_CAN_ROOT, _CAN_USERNS = 1, 2


def _try_namespaces() -> int:
    """Return what works of namespaces, by doing it in a process that then ends."""
    namespaces.enter()

    def first() -> int:
        namespaces.mount_proc()
        root = os.geteuid() == 0
        folder = os.path.dirname(os.__file__)
        namespaces.new_root(read_only=[folder], writable=[], devices=[], links=[], owner=None)
        if root:
            os.setresuid(65534, 65534, 65534)
        system.prctl(_uapi.PR_SET_NO_NEW_PRIVS, 1)
        system.drop_capabilities()
        return _CAN_ROOT | _bits(unshare)

    def unshare() -> int:
        system.unshare(_uapi.CLONE_NEWUSER | _uapi.CLONE_NEWPID | _uapi.CLONE_NEWNS)
        return _CAN_USERNS

    return _bits(first)


def _try_listener() -> int:
    system.prctl(_uapi.PR_SET_NO_NEW_PRIVS, 1)
    allow = struct.pack("=HBBI", 0x06, 0, 0, _uapi.SECCOMP_RET_ALLOW)
    system.seccomp_filter(allow, (1 << 3) | _uapi.SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV)
    return 1


def _probe(simulate: dict[str, Any]) -> dict[str, Any]:
    """Find out what this kernel offers, by trying. `simulate` takes features away, for tests."""
    abi = min(system.landlock_abi(), simulate.get("landlock_abi", 1 << 10))
    spaces = _bits(_try_namespaces) if simulate.get("namespaces", True) else 0
    listener = _bits(_try_listener) if simulate.get("listener", True) else 0
    return {
        "root": os.geteuid() == 0,
        "landlock_abi": abi,
        "namespaces": bool(spaces & _CAN_ROOT),
        "call_userns": bool(spaces & _CAN_USERNS),
        "listener": bool(listener),
        "cores": os.cpu_count() or 1,
        "machine": os.uname().machine,
        "kernel": os.uname().release,
    }


def main(configuration: dict[str, Any]) -> None:
    """Be the zygote of the host `configuration["host"]`, which speaks on descriptor `configuration["control"]`.

    In namespaces the process that the host started stays as a bridge: it waits for the zygote, which is the first
    process of its pid namespace, and ends when the host or the zygote does.
    """
    host = os.pidfd_open(configuration["host"])
    if os.getppid() != configuration["host"]:
        os._exit(1)  # the host ended before it could be watched
    os.umask(0o077)
    bootstrap = __import__(configuration["bootstrap"], fromlist=["prepare"]) if configuration["bootstrap"] else None
    features = _probe(configuration["simulate"])
    control = _socket.socket(AF_UNIX, SOCK_SEQPACKET, 0, configuration["control"])
    system.default_thread_stack(_THREAD_STACK)
    if features["namespaces"]:
        namespaces.enter()
        zygote = os.fork()
        if zygote:
            _bridge(host, zygote, control)
        namespaces.mount_proc()
    system.prctl(_uapi.PR_SET_CHILD_SUBREAPER, 1)
    os.chdir("/")
    gc.collect()
    gc.freeze()
    _send(control, {"op": "hello", "features": features})
    Zygote(control, host, features, bootstrap).run()


def _bridge(host: int, zygote: int, control: _socket.socket) -> None:
    control.close()
    poll = select.poll()
    watched = os.pidfd_open(zygote)
    for descriptor in (host, watched):
        poll.register(descriptor, select.POLLIN)
    poll.poll()
    os.kill(zygote, signal.SIGKILL)
    os.waitpid(zygote, 0)
    os._exit(0)


def _socket_pair(kind: int) -> tuple[_socket.socket, _socket.socket]:
    return _socket.socketpair(AF_UNIX, kind | _socket.SOCK_CLOEXEC, 0)


def _memory_file(size: int) -> int:
    """Return a file in memory of exactly `size` bytes that cannot grow: an output that needs no reader."""
    try:
        descriptor = os.memfd_create("output", _uapi.MFD_CLOEXEC | _uapi.MFD_ALLOW_SEALING | _uapi.MFD_NOEXEC_SEAL)
    except OSError:  # before Linux 6.3
        descriptor = os.memfd_create("output", _uapi.MFD_CLOEXEC | _uapi.MFD_ALLOW_SEALING)
    os.ftruncate(descriptor, size)
    _seal(descriptor)
    return descriptor


def _seal(descriptor: int) -> None:
    import fcntl  # noqa: PLC0415 - built in; imported where it is used to keep the templates small

    fcntl.fcntl(descriptor, _uapi.F_ADD_SEALS, _uapi.F_SEAL_GROW | _uapi.F_SEAL_SHRINK | _uapi.F_SEAL_SEAL)


def _status(pid: int) -> dict[str, str]:
    with open(f"/proc/{pid}/status", "rb", buffering=0) as file:
        lines = file.read(8192).decode("ascii", "replace").splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


def _signal_of(status: int) -> str:
    if os.WIFSIGNALED(status):
        return signal.Signals(os.WTERMSIG(status)).name
    return f"exit {os.WEXITSTATUS(status)}"
