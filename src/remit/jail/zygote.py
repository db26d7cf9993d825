"""The zygote: a clean, single-threaded interpreter that makes templates, forks calls, keeps their time, reaps them.

It never imports foreign code and never decodes what a jail sent. It is a process of its own, so that limits hold while
the host is stopped or a thread of it holds the GIL; in a pid namespace it is the first process, so that the kernel
ends everything below with it. It waits for nobody: what the host does not take yet stands in line here. The host speaks
to it by JSON datagrams over one SOCK_SEQPACKET socket:

    host -> zygote   template {t, terms} + plan   warm {t, n}   spawn {t, c} + stdio   start {c, deadline, cpu}
                     kill {c, why}   drop {t}
    zygote -> host   hello {features}   listener {t} + fd   ready {t, said, ...}   failed {t, said or error}
                     child {t, c, pid} + socket, stdout, stderr   exit {c, status, why, ...}   gone {t, why}

A call is believed in nothing: its pid comes from the kernel (SCM_CREDENTIALS, unix(7)), its walls are read from
/proc before the host hears of it, its limits are set from outside (prlimit(2)), its end comes from wait4(2). Neither
is a template, which has run foreign code: what it says of its import goes to the host as it is (`said`, base64).
"""

from __future__ import annotations

import _socket
import gc
import json
import os
import select
import signal
import time
from _socket import AF_UNIX, SO_PASSCRED, SOCK_SEQPACKET, SOCK_STREAM, SOL_SOCKET
from binascii import b2a_base64
from heapq import heappop, heappush

from remit.jail import _syscall_unsafe as system
from remit.jail import _uapi, limits, namespaces, nursery, trial
from remit.jail.nursery import Child, Template

TYPE_CHECKING = False
if TYPE_CHECKING:
    import resource
    from types import ModuleType
    from typing import Any

    from remit.jail.spec import Terms

__all__ = ["main"]

_MILLISECOND = 1_000_000
_THREAD_STACK = 1 << 20
_REFILL_DELAY = 2 * _MILLISECOND
_CPU_STEP = 2 * _MILLISECOND
_TREE_STEP = 10 * _MILLISECOND  # a tree is read from /proc
_LOOK = 1_000 * _MILLISECOND  # how often templates are looked at
_LATE = 60_000 * _MILLISECOND  # how long a fork may take: a host that is stopped answers for none
_IDLE_CPU = 2_000 * _MILLISECOND  # what a template may use besides its forks
_FORK_CPU = 200 * _MILLISECOND  # and for each of them
_FAILURES = 8
_SAID = 1 << 16  # bytes of what a template says of its import
_SWEEPS = 50
_WARM_NUMBERS = 1 << 32
_GOING = (OSError, KeyError, ValueError, IndexError)  # what reading about a process raises that is going


class _Outbox:
    """Messages to the host, in order; never waits for it."""

    def __init__(self, sock: _socket.socket, epoll: select.epoll) -> None:
        self._sock, self._epoll = sock, epoll
        self._line: list[tuple[bytes, list[int]]] = []

    def send(self, message: dict[str, Any], descriptors: list[int] | None = None) -> None:
        """Send now, or as soon as the host reads."""
        data = json.dumps(message).encode()
        if not self._line:
            try:
                nursery.send(self._sock, data, descriptors or [])
            except BlockingIOError:
                self._epoll.modify(self._sock.fileno(), select.EPOLLIN | select.EPOLLOUT)
            else:
                return
        self._line.append((data, [os.dup(descriptor) for descriptor in descriptors or []]))

    def flush(self) -> None:
        """Send what stands in line."""
        while self._line:
            data, descriptors = self._line[0]
            try:
                nursery.send(self._sock, data, descriptors)
            except BlockingIOError:
                return
            for descriptor in descriptors:
                os.close(descriptor)
            del self._line[0]
        self._epoll.modify(self._sock.fileno(), select.EPOLLIN)


class Zygote:
    """The loop. One thread, no waiting but in epoll."""

    def __init__(
        self, control: _socket.socket, host: int, features: dict[str, Any], bootstrap: ModuleType | None
    ) -> None:
        self.control = control
        self.features = features
        self.bootstrap = bootstrap
        self.templates: dict[int, Template] = {}
        self.children: dict[int, Child] = {}
        self.by_pid: dict[int, Template | Child] = {}
        self.by_sock: dict[int, Template | Child] = {}
        self.timers: list[tuple[int, int, str]] = []
        self.serial = _WARM_NUMBERS  # the numbers of warm calls; the host names those that it asks for
        self.pid = os.getpid()
        self.epoll = select.epoll()
        self.outbox = _Outbox(control, self.epoll)
        self.strangers: set[int] = set()
        self.doomed: set[int] = set()  # strangers that were killed, until they are reaped
        self.looking = False
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
            for descriptor, events in self.epoll.poll(self._patience()):
                if descriptor == self.host:
                    self._end()
                elif descriptor == self.wake:
                    try:
                        os.read(self.wake, 4096)
                    except BlockingIOError:
                        pass
                elif descriptor == self.control.fileno():
                    if events & select.EPOLLOUT:
                        self.outbox.flush()
                    if events & ~select.EPOLLOUT:
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
            if kind == "look":
                self._look(now)
                continue
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

    def _cpu_time(self, child: Child, now: int) -> None:
        tree = child.template.terms["tree"]
        try:
            left = child.cpu - (limits.tree_cpu(child.pid) if tree else limits.cpu_clock(child.pid))
        except OSError:
            return
        if left <= 0:
            self._kill(child, "cpu")
        else:  # it cannot use more than all cores until then; closer in, look every two milliseconds
            step = max(left // self.features["cores"], _TREE_STEP if tree else _CPU_STEP)
            heappush(self.timers, (now + step, child.number, "cpu"))

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
        if wall >= template.terms["import_timeout"] * _MILLISECOND:
            self._lose(template, "import: timeout")
        elif used >= template.terms["import_cpu"] * _MILLISECOND:
            self._lose(template, "import: cpu")
        else:
            heappush(self.timers, (now + 50 * _MILLISECOND, number, "import"))

    # --- the host

    def _command(self) -> None:
        try:
            data, descriptors, _ = nursery.receive(self.control)
        except BlockingIOError:
            return
        if not data:
            self._end()
            return
        message = json.loads(data)
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
                self.outbox.send({"op": "exit", "c": message["c"], "status": None, "why": "no template"})
        elif operation == "kill":
            child = self.children.get(message["c"])
            if child is not None:
                self._kill(child, message["why"])
        elif operation == "template":
            self._make_template(message["t"], message["terms"], descriptors[0])
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
            child.template.failed = 0
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

    def _make_template(self, number: int, terms: Terms, plan_file: int) -> None:
        ours, theirs = nursery.socket_pair(SOCK_SEQPACKET)
        pid = os.fork()
        if pid == 0:
            try:
                nursery.be_template(plan_file, theirs.detach(), self.null, self.pid, self.bootstrap)
            finally:
                os._exit(1)
        theirs.close()
        template = Template(number, pid, ours, terms)
        self.templates[number] = self.by_pid[pid] = self.by_sock[ours.fileno()] = template
        self.epoll.register(ours.fileno(), select.EPOLLIN)
        heappush(self.timers, (template.started + 50 * _MILLISECOND, number, "import"))
        if not self.looking:
            self.looking = True
            heappush(self.timers, (template.started + _LOOK, 0, "look"))

    def _lose(self, template: Template, why: str) -> None:
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
        self.outbox.send({"op": "gone", "t": template.number, "why": why})
        self._sweep(template.pid)

    def _look(self, now: int) -> None:
        """Once a second: does a template do what it was not asked for? One that runs foreign code by a signal could."""
        for template in list(self.templates.values()):
            try:
                used = limits.cpu_clock(template.pid) - template.cpu
            except OSError:
                continue
            if template.ready and used > _IDLE_CPU + template.forks * _FORK_CPU:
                self._lose(template, "it used CPU between its calls")
        late = {c.template.number: c.template for c in self.children.values() if not c.pid and now - c.asked > _LATE}
        for template in late.values():
            self._lose(template, "it does not fork")
        self._sweep(0)
        self.looking = bool(self.templates or self.children)
        if self.looking:
            heappush(self.timers, (now + _LOOK, 0, "look"))

    def _sweep(self, session: int) -> None:
        """End children that nobody asked for: those of a session that is over, or any that was strange a look ago."""
        for _ in range(_SWEEPS):
            strangers = set(limits.children_of(self.pid)) - self.by_pid.keys() - self.doomed
            rogues = {pid: limits.session_of(pid) for pid in strangers}
            if session:
                rogues = {pid: of for pid, of in rogues.items() if of == session and pid != session}
            else:
                rogues = {pid: of for pid, of in rogues.items() if pid in self.strangers}
                self.strangers = strangers
            if not rogues:
                return
            for pid in rogues:  # who has this signal coming forks no more (fork(2) starts anew after it)
                os.kill(pid, signal.SIGKILL)
            self.doomed |= rogues.keys()
            makers = {template for template in self.templates.values() if template.pid in rogues.values()}
            for template in makers:
                self._lose(template, "it forked what it was not asked for")
        self._end()  # it forks faster than it can be ended: nothing runs that is not bounded

    def _fill(self, template: Template) -> None:
        while template.ready and template.warm < template.want and template.number in self.templates:
            self.serial += 1
            self._spawn(template, self.serial, [])

    def _spawn(self, template: Template, number: int, stdio: list[int]) -> None:
        ours, theirs = nursery.socket_pair(SOCK_STREAM)
        output: list[int] = []
        if not stdio:
            output = [nursery.memory_file(template.terms["output"]) for _ in range(2)]
        child = Child(number, template, ours, output)
        child.warm = number >= _WARM_NUMBERS
        template.forks += 1
        if child.warm:
            template.warm += 1
        self.children[number] = self.by_sock[ours.fileno()] = child
        self.epoll.register(ours.fileno(), select.EPOLLIN)
        given = stdio or [self.null, *output]
        try:
            nursery.send(template.sock, b"fork", [theirs.fileno(), *given])
        except OSError:
            self._abandon(child)
            self._lose(template, "it does not listen")
        theirs.close()

    def _abandon(self, child: Child) -> None:
        """Forget a call that never became one."""
        self.children.pop(child.number, None)
        self._quiet(child)
        for descriptor in child.output:
            os.close(descriptor)
        if child.warm:
            child.template.warm -= 1
        else:
            self.outbox.send({"op": "exit", "c": child.number, "status": None, "why": "not forked"})

    def _quiet(self, child: Child) -> None:
        if child.sock is not None:
            self.epoll.unregister(child.sock.fileno())
            del self.by_sock[child.sock.fileno()]
            child.sock.close()
            child.sock = None

    def _heard(self, descriptor: int) -> None:
        thing = self.by_sock.get(descriptor)
        if isinstance(thing, Child):
            self._hello(thing)
        elif thing is not None:
            self._from_template(thing)

    def _from_template(self, template: Template) -> None:
        try:
            said, descriptors, _ = nursery.receive(template.sock)
        except BlockingIOError:
            return
        except OSError:
            said, descriptors = b"", []
        kind, text = said[:1], b2a_base64(said[1:], newline=False).decode()
        if kind == nursery.LISTENER and len(descriptors) == 1 and template.terms["notify"] and not template.heard:
            template.heard = True
            self.outbox.send({"op": "listener", "t": template.number, "pid": template.pid}, descriptors)
        elif kind == nursery.FAILED and len(said) <= _SAID:
            self.outbox.send({"op": "failed", "t": template.number, "said": text})
            self._lose(template, "failed")
        elif kind == nursery.READY and len(said) <= _SAID and not template.ready:
            self._ready(template, text)
        else:
            self._lose(template, "ended" if not said else "it said what no template says")
        for descriptor in descriptors:
            os.close(descriptor)

    def _ready(self, template: Template, said: str) -> None:
        """Check a template from outside after its import, set what its calls inherit, and let it be forked."""
        try:
            problem, data = nursery.check_template(template)
        except _GOING as error:
            problem, data = f"it ended after its import ({type(error).__name__})", 0
        if problem:
            self.outbox.send({"op": "failed", "t": template.number, "error": {"unfit": problem}})
            self._lose(template, "unfit")
            return
        template.ready = True
        took = time.monotonic_ns() - template.started
        self.outbox.send({"op": "ready", "t": template.number, "data": data, "import_ns": took, "said": said})
        self._fill(template)

    # --- calls

    def _hello(self, child: Child) -> None:
        """Hear that a call is locked down; check it from outside; hand it to the host."""
        sock, template = child.sock, child.template
        if sock is None:
            return
        try:
            data, descriptors, pid = nursery.receive(sock)
        except BlockingIOError:  # an event of a socket that had this number before
            return
        except OSError:
            data, descriptors, pid = b"", [], 0
        for descriptor in descriptors:
            os.close(descriptor)
        if data != nursery.HELLO or pid in self.by_pid or pid <= 0:
            self._broken(child)
            return
        child.pid = pid
        try:
            fit = nursery.check_call(child, pid, self.pid)
            if fit and template.terms["tmp"]:
                namespaces.give_scratch(pid, template.terms["tmp"])
        except _GOING:
            fit = False
        if not fit:
            self._broken(child)
            return
        self.by_pid[pid] = child
        sock.setsockopt(SOL_SOCKET, SO_PASSCRED, 0)
        message = {"op": "child", "t": template.number, "c": child.number, "pid": pid, "base": child.base}
        self.outbox.send(message, [sock.fileno(), *child.output])
        self._quiet(child)
        for descriptor in child.output:
            os.close(descriptor)
        child.output = []

    def _broken(self, child: Child) -> None:
        """Handle a fork that did not lock itself down: end it, if it is a fork; see `_failed`."""
        if child.pid in limits.children_of(self.pid) and child.pid not in self.by_pid:
            os.kill(child.pid, signal.SIGKILL)
        self._abandon(child)
        self._failed(child.template)

    def _failed(self, template: Template) -> None:
        """Replace a fork that was of no use; a template that keeps making such is ended."""
        template.failed += 1
        if template.failed >= _FAILURES:
            self._lose(template, "its forks do not become calls")
        else:
            self._fill(template)

    def _kill(self, child: Child, why: str) -> None:
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
            self.doomed.discard(pid)
            thing = self.by_pid.pop(pid, None)
            if isinstance(thing, Child):
                self._gone(thing, status, usage)
            elif thing is not None:
                self._lose(thing, f"ended: {_signal_of(status)}")

    def _gone(self, child: Child, status: int, usage: resource.struct_rusage) -> None:
        del self.children[child.number]
        if child.warm:
            child.template.warm -= 1
            if not child.why:
                self._failed(child.template)
        message = {
            "op": "exit",
            "c": child.number,
            "status": status,
            "why": child.why,
            "user": usage.ru_utime,
            "system": usage.ru_stime,
            "peak": max(0, usage.ru_maxrss * 1024 - child.base),
        }
        self.outbox.send(message)


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
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal's, or a jail's of the same uid: it is not for the zygote
    features = trial.probe(configuration["simulate"])
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
    nursery.send(control, json.dumps({"op": "hello", "features": features}).encode(), [])
    control.setblocking(False)
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


def _signal_of(status: int) -> str:
    if os.WIFSIGNALED(status):
        return signal.Signals(os.WTERMSIG(status)).name
    return f"exit {os.WEXITSTATUS(status)}"
