"""The host's side of all jails: starts the zygote, hands requests to calls, reads answers, tells how they ended.

One thread per supervisor waits in epoll; requests are sent by whoever calls `submit`. The zygote keeps the time and
kills; this side only decides what an ending means. Nothing that a jail sends is run, imported or unpickled.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

from remit.jail import channel, endings, notify, plan
from remit.jail.calls import Call, Jail, Template, Unfit, Unheld, receive, report
from remit.jail.pool import Slots
from remit.jail.probe import Features, guarantees
from remit.jail.spec import Ending, JailSpec, Refusal

__all__ = ["Call", "Supervisor", "Template", "Unfit", "Unheld"]

_DATAGRAM = 1 << 17
_START_SECONDS = 20.0
_REFUSALS = 100
_LINGER = 0.25  # seconds that an answered call has to end by itself
_TICK = 1.0


class Supervisor:
    """All jails of one runtime.

    Args:
        bootstrap: the module that prepares a template and loads functions by value (imported in the zygote).
        on_refusal: told, on the supervisor's thread, what a jail was refused: (owner, refusal).
        memory_budget: bytes that all live calls together may be granted; 0 for no bound.
        simulate: takes features of the kernel away, for tests: `{"landlock_abi": 1, "namespaces": False}`.

    Raises:
        Unheld: this is not Linux, or the zygote does not start.
    """

    def __init__(
        self,
        *,
        bootstrap: str = "",
        on_refusal: Callable[[str, Refusal], None] | None = None,
        memory_budget: int = 0,
        simulate: Mapping[str, Any] | None = None,
    ) -> None:
        self._bootstrap = bootstrap
        self._on_refusal = on_refusal
        self._simulate = dict(simulate or {})
        self._slots = Slots(memory_budget)
        self._lock = threading.RLock()
        self._templates: dict[str, Template] = {}
        self._by_number: dict[int, Template] = {}
        self._jails: dict[int, Jail] = {}
        self._by_pid: dict[int, Jail] = {}
        self._by_sock: dict[int, Jail] = {}
        self._listeners: dict[int, Template] = {}
        self._spawned: dict[int, Call] = {}
        self._serial = int.from_bytes(os.urandom(3), "big")  # as root, uids of two runtimes should not meet
        self._spawn_serial = 0
        self._closed = False
        self._over_with = False
        self._pid = os.getpid()
        self.features = Features()
        self._start()

    # --- life

    def _start(self) -> None:
        if sys.platform != "linux" or os.uname().machine not in ("x86_64", "aarch64"):
            held = guarantees(Features())["files"]
            raise Unheld("files", held.missing, held.remedy)
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
        root = str(Path(__file__).resolve().parent.parent.parent)
        configuration = {
            "host": os.getpid(),
            "control": theirs.fileno(),
            "bootstrap": self._bootstrap,
            "simulate": self._simulate,
        }
        program = (
            f"import sys; sys.path.insert(0, {root!r}); "
            f"from remit.jail.zygote import main; import json; main(json.loads({json.dumps(configuration)!r}))"
        )
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", "-X", "utf8", "-c", program],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            pass_fds=(theirs.fileno(),),
            env={},
            cwd="/",
            start_new_session=True,
        )
        theirs.close()
        ours.settimeout(_START_SECONDS)
        try:
            answer = ours.recv(_DATAGRAM)
        except TimeoutError:
            answer = b""
        if not answer:
            self._process.kill()
            _, error = self._process.communicate()
            ours.close()
            last = error.decode("utf-8", "replace").strip().splitlines()[-1:] or ["it said nothing"]
            raise Unheld("files", f"zygote ({last[0]})", "run `remit doctor`")
        ours.settimeout(None)
        self._control = ours
        self.features = Features.of(json.loads(answer)["features"])
        self._names = notify.names_of(self.features.machine)
        self._epoll = select.epoll()
        self._epoll.register(ours.fileno(), select.EPOLLIN)
        self._wake_read, self._wake_write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._epoll.register(self._wake_read, select.EPOLLIN)
        self._thread = threading.Thread(target=self._run, name="remit-supervisor", daemon=True)
        self._thread.start()

    @property
    def alive(self) -> bool:
        """Whether the zygote serves, and this is the process that started it."""
        return not self._closed and os.getpid() == self._pid

    def close(self) -> None:
        """End every jail and the zygote; calls in flight end as `killed`. Idempotent."""
        if os.getpid() != self._pid:  # the lock may be held by a thread that this fork does not have
            self._closed = True
            return
        with self._lock:
            self._closed = True
            if self._over_with:
                self._reap()
                return
            with contextlib.suppress(OSError):
                self._control.shutdown(socket.SHUT_RDWR)
            self._wake()
        if threading.current_thread() is not self._thread:
            self._thread.join()
        self._reap()

    def _reap(self) -> None:
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._process.stderr is not None:
            self._process.stderr.close()

    def _wake(self) -> None:
        with contextlib.suppress(OSError):
            os.write(self._wake_write, b".")

    # --- templates

    def template(self, spec: JailSpec) -> Template:
        """Return the template for `spec`, made now if there is none; its `ready` says when it has imported.

        Raises:
            Unheld: a guarantee that the spec requires does not hold on this machine.
            Unfit: a path of the spec is not there, or the supervisor is closed.
        """
        held = guarantees(self.features)
        for name in spec.required:
            if not held[name].held:
                raise Unheld(name, held[name].missing, held[name].remedy)
        if spec.tmp and not held["scratch_quota"].held:
            raise Unheld("scratch_quota", held["scratch_quota"].missing, held["scratch_quota"].remedy)
        if spec.processes > 1 and not self.features.call_userns:
            raise Unheld("processes", "user namespaces", "grant one process, or " + held["scratch_quota"].remedy)
        if spec.processes > 1 and spec.code.kind != "program" and not (self.features.root or self.features.scoped):
            raise Unheld("processes", "landlock ABI 6", "grant one process, or use Linux 6.12 or newer")
        if (spec.hide or spec.freeze) and not self.features.namespaces:
            remedy = "grant what is beside the denied path instead, or " + held["file_metadata"].remedy
            raise Unheld("files", "mount namespaces to deny a path beneath a granted one", remedy)
        key = spec.key()
        self._own()
        with self._lock:
            if not self.alive:
                raise Unfit({"gone": "the supervisor is closed, or its zygote has ended"})
            template = self._templates.get(key)
            if template is None or template.gone:
                template = self._make(key, spec)
            template.used = time.monotonic()
            return template

    def _own(self) -> None:
        """Refuse in a fork of the process that owns the jails: the lock may be held by a thread that is not here."""
        if os.getpid() != self._pid:
            raise Unfit({"gone": "this process was forked from the one that owns the supervisor"})

    def _make(self, key: str, spec: JailSpec) -> Template:
        self._serial += 1
        template = Template(self._serial, spec)
        try:
            made, terms = plan.make(spec, self.features, self._serial)
        except OSError as error:
            raise Unfit({"unfit": f"`{error.filename}`: {error.strerror}"}) from None
        template.call_flags = made["call_flags"]
        file = os.memfd_create("plan", os.MFD_CLOEXEC)
        try:
            with open(file, "wb", closefd=False) as stream:
                stream.write(json.dumps(made).encode())
            os.lseek(file, 0, os.SEEK_SET)
            self._send({"op": "template", "t": template.number, "terms": terms}, [file])
        finally:
            os.close(file)
        self._templates[key] = self._by_number[template.number] = template
        return template

    def drop(self, template: Template) -> None:
        """Let a template and its warm calls go."""
        self._send({"op": "drop", "t": template.number})

    # --- calls

    def submit(
        self,
        template: Template,
        request: bytes,
        spec: JailSpec,
        *,
        slots: int = 0,
        stdio: list[int] | None = None,
    ) -> Call:
        """Send one request; the call's `future` becomes its Ending.

        Args:
            request: a frame made by `channel.pack`.
            spec: the limits of this call (its template was made from an equal `key`).
            slots: how many calls of the same owner may live at a time, 0 for no bound; others wait in line.
            stdio: descriptors for a program's standard input, output and error instead of capturing.

        Raises:
            Unfit: this process was forked from the one that owns the supervisor.
        """
        self._own()
        call = Call(template, request, spec, stdio)
        with self._lock:
            if self._slots.take(spec.owner, slots, spec.memory):
                self._begin(call)
            else:
                self._slots.wait(spec.owner, slots, spec.memory, call)
        return call

    def kill(self, call: Call, why: str) -> None:
        """End a call, wherever it is; its Ending says `killed` and `why`."""
        self._own()
        with self._lock:
            if call.future.done():
                return
            call.killed = call.killed or why
            if call.jail is not None:
                self._send({"op": "kill", "c": call.jail.number, "why": why})
                return
            if self._slots.forget(call):
                self._settle(call, Ending("killed", what=why, tier=self.features.tier))
                return
            if call in call.template.waiting:
                call.template.waiting.remove(call)
                call.template.live -= 1
                self._finish(call, Ending("killed", what=why, tier=self.features.tier))

    def _begin(self, call: Call) -> None:
        """Give the call a warm jail, or have one forked. The lock is held."""
        template = call.template
        if not self.alive or template.gone:
            self._finish(call, self._crashed(template.gone or "closed"))
            return
        template.live += 1
        template.used = time.monotonic()
        if call.stdio is not None:
            self._spawn_serial += 1
            self._spawned[self._spawn_serial] = call
            self._send({"op": "spawn", "t": template.number, "c": self._spawn_serial}, call.stdio)
            return
        if template.warm:
            self._give(call, template.warm.popleft())
        else:
            template.waiting.append(call)
        target = template.demand.note(template.live, len(template.waiting))
        if target is not None:
            self._send({"op": "warm", "t": template.number, "n": target})

    def _give(self, call: Call, jail: Jail) -> None:
        """Start the clocks, then send the request."""
        spec = call.spec
        call.jail, jail.call = jail, call
        call.started.set_result(None)
        call.began = time.monotonic_ns()
        call.deadline = call.began + spec.timeout * 1_000_000 if spec.timeout else 0
        self._send(
            {"op": "start", "c": jail.number, "deadline": call.deadline, "cpu": spec.cpu * 1_000_000 if spec.cpu else 0}
        )
        if call.killed:
            self._send({"op": "kill", "c": jail.number, "why": call.killed})
        self._push(jail)

    def _push(self, jail: Jail) -> None:
        call, sock = jail.call, jail.sock
        if call is None or sock is None:
            return
        try:
            while call.request:
                call.request = call.request[sock.send(call.request, socket.MSG_NOSIGNAL) :]
        except BlockingIOError:
            self._epoll.modify(sock.fileno(), select.EPOLLIN | select.EPOLLOUT)
            return
        except OSError:
            call.request = call.request[:0]  # it ended before it read: its exit tells how
        if self._by_sock.get(sock.fileno()) is jail:
            self._epoll.modify(sock.fileno(), select.EPOLLIN)

    def _send(self, message: dict[str, Any], descriptors: list[int] | None = None) -> None:
        data = json.dumps(message).encode()
        with contextlib.suppress(OSError):  # the zygote is gone: the thread hears of it too, and settles everything
            if descriptors:
                socket.send_fds(self._control, [data], descriptors, socket.MSG_NOSIGNAL)
            else:
                self._control.send(data, socket.MSG_NOSIGNAL)

    # --- the thread

    def _run(self) -> None:
        control, wake = self._control.fileno(), self._wake_read
        tick = time.monotonic() + _TICK
        try:
            while True:
                for descriptor, events in self._epoll.poll(max(0.0, tick - time.monotonic())):
                    if descriptor == control:
                        if not self._from_zygote():
                            return
                    elif descriptor == wake:
                        with contextlib.suppress(BlockingIOError):
                            os.read(wake, 4096)
                        if self._closed:
                            return
                    elif descriptor in self._listeners:
                        self._refused(descriptor, events)
                    else:
                        self._from_jail(descriptor, events)
                if time.monotonic() >= tick:
                    tick = time.monotonic() + _TICK
                    self._tick()
        finally:
            self._over()

    def _over(self) -> None:
        """Settle everything: the zygote is gone, or will be."""
        with self._lock:
            status: Literal["killed", "crashed"] = "killed" if self._closed else "crashed"
            why = "the runtime was closed" if self._closed else f"the zygote ended: {self._last_words()}"
            self._closed = self._over_with = True
            calls = [jail.call for jail in self._jails.values() if jail.call is not None]
            calls += [call for template in self._by_number.values() for call in template.waiting]
            calls += list(self._spawned.values())
            calls += self._slots.drain()
            for template in self._by_number.values():
                template.gone = why
                if not template.ready.done():
                    template.ready.set_exception(Unfit({"gone": why}))
            for call in dict.fromkeys(calls):
                ended = "killed" if call.killed else status
                self._settle(call, Ending(ended, what=call.killed or why, tier=self.features.tier))
            for jail in list(self._jails.values()):
                self._let_go(jail)
            for descriptor in (*self._listeners, self._wake_read, self._wake_write):
                os.close(descriptor)
            self._listeners.clear()
            self._epoll.close()
            self._control.close()

    def _last_words(self) -> str:
        """Return the last line of the zygote's standard error, which only its own faults write."""
        if self._process.stderr is None:
            return ""
        os.set_blocking(self._process.stderr.fileno(), False)
        text = (self._process.stderr.read() or b"").decode("utf-8", "replace").strip()
        return text.splitlines()[-1] if text else "it said nothing"

    def _tick(self) -> None:
        with self._lock:
            for template in list(self._by_number.values()):
                self._forget(template)
                target = template.demand.relax(template.live)
                if target is not None and not template.gone:
                    self._send({"op": "warm", "t": template.number, "n": target})
            for jail in list(self._jails.values()):
                call = jail.call
                if call is not None and call.answered and time.monotonic_ns() - call.answered > _LINGER * 1e9:
                    self._send({"op": "kill", "c": jail.number, "why": "lingering"})

    def _from_zygote(self) -> bool:
        try:
            data, descriptors, _, _ = socket.recv_fds(self._control, _DATAGRAM, 8, socket.MSG_CMSG_CLOEXEC)
        except OSError:
            return False
        if not data:
            return False
        message = json.loads(data)
        with self._lock:
            operation = message["op"]
            if operation == "child":
                self._arrived(message, descriptors)
            elif operation == "exit":
                self._ended(message)
            elif operation == "listener":
                template = self._by_number[message["t"]]
                template.listener = descriptors[0]
                template.pid = message["pid"]
                self._listeners[template.listener] = template
                self._epoll.register(template.listener, select.EPOLLIN)
            elif operation == "ready":
                template = self._by_number[message["t"]]
                template.ready.set_result({**report(message.pop("said")), **message})
                self._send({"op": "warm", "t": template.number, "n": template.demand.target})
            elif operation == "failed":
                template = self._by_number[message["t"]]
                if not template.ready.done():
                    template.ready.set_exception(Unfit(message.get("error") or report(message["said"])))
            elif operation == "gone":
                self._lost(self._by_number[message["t"]], message["why"])
        return True

    def _lost(self, template: Template, why: str) -> None:
        template.gone = why
        if not template.ready.done():
            template.ready.set_exception(Unfit({"gone": why}))
        for key, known in list(self._templates.items()):
            if known is template:
                del self._templates[key]
        while template.waiting:
            template.live -= 1
            call = template.waiting.popleft()
            self._finish(call, self._killed(call) or self._crashed(why))
        self._forget(template)

    def _forget(self, template: Template) -> None:
        """Keep nothing of a template that is gone once its last call is."""
        if template.gone and not any(jail.template is template for jail in self._jails.values()):
            self._by_number.pop(template.number, None)
            self._deafen(template)

    def _deafen(self, template: Template) -> None:
        if template.listener >= 0:
            del self._listeners[template.listener]
            self._epoll.unregister(template.listener)
            os.close(template.listener)
            template.listener = -1

    def _arrived(self, message: dict[str, Any], descriptors: list[int]) -> None:
        template = self._by_number[message["t"]]
        sock = socket.socket(fileno=descriptors[0])
        sock.setblocking(False)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        jail = Jail(message["c"], message["pid"], sock, descriptors[1:], template, message["base"])
        self._jails[jail.number] = self._by_pid[jail.pid] = self._by_sock[sock.fileno()] = jail
        self._epoll.register(sock.fileno(), select.EPOLLIN)
        call = self._spawned.pop(jail.number, None)
        if call is not None:
            self._give(call, jail)
        elif template.waiting:
            self._give(template.waiting.popleft(), jail)
        else:
            template.warm.append(jail)

    def _from_jail(self, descriptor: int, events: int) -> None:
        with self._lock:
            jail = self._by_sock.get(descriptor)
            if jail is None or jail.sock is None:
                return
            call = jail.call
            if events & select.EPOLLOUT:
                self._push(jail)
            if not events & (select.EPOLLIN | select.EPOLLHUP | select.EPOLLERR):
                return
            try:
                data, sender = receive(jail.sock)
            except BlockingIOError:
                return
            except OSError:
                data, sender = b"", 0
            if not data:
                self._hush(jail)
                # A program's end of the channel closes when it is executed.
                function = call is not None and call.spec.code.kind != "program"
                if call is not None and function and call.frame is None and not call.broken:
                    call.closed = True
                    self._send({"op": "kill", "c": jail.number, "why": "channel"})
                return
            if call is None:
                self._send({"op": "kill", "c": jail.number, "why": "spoke before it was asked"})
                self._hush(jail)
                return
            try:
                frame = self._take(jail, call, data, sender)
            except channel.ProtocolError as error:
                call.broken = str(error)
            except OverflowError as error:
                call.oversize = int(error.args[0])
            else:
                if frame is not None:
                    self._answered(jail, call, frame)
                return
            self._hush(jail)
            self._send({"op": "kill", "c": jail.number, "why": "channel"})

    def _take(self, jail: Jail, call: Call, data: bytes, sender: int) -> bytes | None:
        """Add to a call's answer what its own process sent; returns the frame when it is whole.

        Raises:
            ProtocolError, OverflowError: as channel.FrameReader, and when somebody else of the jail spoke.
        """
        if sender <= 0 or jail.sender not in (0, sender):
            raise channel.ProtocolError("another process spoke, or descriptors came")
        several = call.spec.processes > 1 and call.spec.code.kind != "program"
        if (
            several
            and not jail.sender
            and not endings.is_process(sender, jail.pid, 1 if self.features.namespaces else 0)
        ):
            raise channel.ProtocolError("another process spoke")
        jail.sender = sender
        return call.reader.feed(data)

    def _answered(self, jail: Jail, call: Call, frame: bytes) -> None:
        """Settle a call that has answered in time, and end its process: it waits, and what it used can be read.

        To wait until the process is gone would double the time of a short call. Its slot is given back when it is.
        """
        call.frame, call.answered = frame, time.monotonic_ns()
        if not call.killed and not call.future.done() and not (call.deadline and call.answered > call.deadline):
            depth = 1 if self.features.namespaces else 0
            used = endings.used(jail.sender, jail.pid, depth, jail.base) if call.spec.processes == 1 else None
            if used is not None:
                self._settle(call, endings.ending(call, jail.output, used, self.features.tier))
        self._send({"op": "kill", "c": jail.number, "why": "answered"})

    def _hush(self, jail: Jail) -> None:
        """Hear no more of a jail."""
        if jail.sock is not None:
            self._epoll.unregister(jail.sock.fileno())
            del self._by_sock[jail.sock.fileno()]
            jail.sock.close()
            jail.sock = None

    def _let_go(self, jail: Jail) -> None:
        self._hush(jail)
        for descriptor in jail.output:
            os.close(descriptor)
        jail.output = []
        self._jails.pop(jail.number, None)
        self._by_pid.pop(jail.pid, None)

    def _refused(self, listener: int, events: int) -> None:
        template = self._listeners[listener]
        try:
            notice = notify.receive(listener, self._names) if not events & select.EPOLLHUP else None
            if notice is not None and notice.what == "clone" and self._is_template(template, notice):
                notify.let_go_on(listener, notice)
                return
            group = notice.group if notice is not None else ()
            resource = notice.resource if notice is not None else ""
            if notice is None or not notify.answer(listener, notice):
                if events & select.EPOLLHUP:  # nobody is left who could be refused anything
                    with self._lock:
                        self._deafen(template)
                return
        except OSError:  # not what a listener says: hear no more of it, and let what it belongs to fail closed
            with self._lock:
                self._deafen(template)
            return
        depth = 1 if self.features.namespaces else 0
        with self._lock:
            jail = self._by_pid.get(group[depth]) if len(group) > depth else None
            call = jail.call if jail is not None else None
            refusal = Refusal(jail.number if jail else None, notice.what, resource, "kernel")
            if call is None:
                known = template.refused
                if len(known) == _REFUSALS - 1:
                    self.drop(template)
            else:
                known = call.refusals
                if len(known) == _REFUSALS - 1 and jail is not None:
                    self._send({"op": "kill", "c": jail.number, "why": "refusals"})
            heard = len(known) < _REFUSALS
            if heard:
                known.append(refusal)
        if self._on_refusal is not None and heard:
            with contextlib.suppress(Exception):  # a listener's fault must not end every jail
                self._on_refusal(template.spec.owner, refusal)

    def _is_template(self, template: Template, notice: notify.Notice) -> bool:
        """Whether a clone is the template's own, with the flags by which it forks calls."""
        if template.gone or notice.arguments[0] != template.call_flags:
            return False
        if not template.tid:
            group = notice.group
            depth = 1 if self.features.namespaces else 0
            if len(group) <= depth or group[depth] != template.pid or group[0] != notice.tid:
                return False
            template.tid = notice.tid
        return notice.tid == template.tid

    # --- endings

    def _ended(self, message: dict[str, Any]) -> None:
        jail = self._jails.get(message["c"])
        if jail is None:
            call = self._spawned.pop(message["c"], None)
            if call is not None:
                call.template.live -= 1
                self._finish(call, self._killed(call) or self._crashed(message["why"]))
            return
        call = jail.call
        if call is None:
            with contextlib.suppress(ValueError):
                jail.template.warm.remove(jail)
            self._let_go(jail)
            return
        if jail.sock is not None:
            self._drain(jail, call)
        settled = call.future.done()
        ending = None if settled else endings.ending(call, jail.output, message, self.features.tier)
        self._let_go(jail)
        jail.template.live -= 1
        self._finish(call, ending)

    def _drain(self, jail: Jail, call: Call) -> None:
        """Read what a jail had sent before it ended."""
        sock = jail.sock
        if sock is None:
            return
        try:
            while True:
                data, sender = receive(sock)
                if not data:
                    return
                frame = self._take(jail, call, data, sender)
                if frame is not None:
                    call.frame, call.answered = frame, time.monotonic_ns()
        except OSError:
            pass
        except channel.ProtocolError as error:
            call.broken = str(error)
        except OverflowError as error:
            call.oversize = int(error.args[0])

    def _finish(self, call: Call, ending: Ending | None) -> None:
        for waiting in self._slots.give_back(call.spec.owner, call.spec.memory):
            self._begin(waiting)
        if ending is not None:
            self._settle(call, ending)

    def _settle(self, call: Call, ending: Ending) -> None:
        if call.future.done():
            return
        if not call.started.done():
            call.started.set_result(None)
        if call.future.set_running_or_notify_cancel():
            call.future.set_result(ending)

    def _killed(self, call: Call) -> Ending | None:
        return Ending("killed", what=call.killed, tier=self.features.tier) if call.killed else None

    def _crashed(self, why: str) -> Ending:
        return Ending("crashed", what=why, tier=self.features.tier)
