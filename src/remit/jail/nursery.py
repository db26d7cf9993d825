"""Templates and calls as the zygote knows them, how they are checked from outside, and what a template does itself."""

from __future__ import annotations

import _socket
import gc
import json
import os
import resource
import signal
import struct
import time
from _socket import AF_UNIX, SCM_CREDENTIALS, SCM_RIGHTS, SO_PASSCRED, SOCK_SEQPACKET, SOCK_STREAM, SOL_SOCKET
from binascii import a2b_base64

from remit.jail import _syscall_unsafe as system
from remit.jail import _uapi, channel, contain, guest, landlock, limits

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import ModuleType

    from remit.jail.spec import Plan, Terms

__all__ = [
    "HELLO",
    "Child",
    "Template",
    "be_template",
    "check_call",
    "check_template",
    "memory_file",
    "receive",
    "send",
    "socket_pair",
]

HELLO = b"hello"
_DATAGRAM = 1 << 17
_CREDENTIALS = struct.Struct("3i")
_PAGE = os.sysconf("SC_PAGESIZE")
# A template's messages begin with one byte; what follows is for the host, which decodes it as hostile.
LISTENER, READY, FAILED = b"l", b"r", b"f"


class Template:
    """A process that has imported the function, and waits to be forked."""

    def __init__(self, number: int, pid: int, sock: _socket.socket, terms: Terms) -> None:
        self.number = number
        self.pid = pid
        self.sock = sock
        self.terms = terms
        self.ready = False
        self.heard = False  # its listener, which it sends before it runs foreign code: a second one is not believed
        self.filters = 0
        self.want = 0
        self.warm = 0
        self.forks = 0
        self.failed = 0  # forks in a row that did not become a call, or ended before they were one
        self.started = time.monotonic_ns()
        self.cpu = 0  # what its import used, in ns


class Child:
    """One call, from the order to fork it until it is reaped."""

    def __init__(self, number: int, template: Template, sock: _socket.socket, output: list[int]) -> None:
        self.number = number
        self.template = template
        self.sock: _socket.socket | None = sock
        self.output = output
        self.asked = time.monotonic_ns()
        self.pid = 0
        self.warm = True
        self.why = ""
        self.cpu = 0  # the limit in ns, 0 until it starts
        self.base = 0  # resident bytes that it has from its template


# --- messages


def socket_pair(kind: int) -> tuple[_socket.socket, _socket.socket]:
    """Return two ends of a connection, the first of which never makes the zygote wait."""
    ours, theirs = _socket.socketpair(AF_UNIX, kind | _socket.SOCK_CLOEXEC, 0)
    ours.setblocking(False)
    if kind == SOCK_STREAM:
        ours.setsockopt(SOL_SOCKET, SO_PASSCRED, 1)
    return ours, theirs


def send(sock: _socket.socket, data: bytes, descriptors: list[int]) -> None:
    """Send one datagram with descriptors."""
    rights = [(SOL_SOCKET, SCM_RIGHTS, struct.pack(f"{len(descriptors)}i", *descriptors))] if descriptors else []
    sock.sendmsg([data], rights)


def receive(sock: _socket.socket) -> tuple[bytes, list[int], int]:
    """Return one message (b"" at the end, or when it is larger than honest ones), its descriptors, its sender's pid."""
    data, ancillary, flags, _ = sock.recvmsg(_DATAGRAM, 256, _socket.MSG_CMSG_CLOEXEC)
    descriptors: list[int] = []
    pid = 0
    for level, kind, content in ancillary:
        if level == SOL_SOCKET and kind == SCM_RIGHTS:
            count = len(content) // 4
            descriptors += struct.unpack(f"{count}i", content[: 4 * count])
        elif level == SOL_SOCKET and kind == SCM_CREDENTIALS:
            pid = _CREDENTIALS.unpack(content[: _CREDENTIALS.size])[0]
    return (b"" if flags & _socket.MSG_TRUNC else data), descriptors, pid


# --- checks, from outside


def _status(pid: int) -> dict[str, str]:
    with open(f"/proc/{pid}/status", "rb", buffering=0) as file:
        lines = file.read(8192).decode("ascii", "replace").splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


def _walls(terms: Terms, status: dict[str, str]) -> str:
    """Return which wall is not there, or ""."""
    identity = terms["identity"]
    if identity and status["Uid"].split() != [str(identity[0])] * 4:
        return f"its uid is {status['Uid']}"
    for field, expected in (("CapEff", 0), ("CapPrm", 0), ("NoNewPrivs", 1), ("Seccomp", 2)):
        if int(status[field], 16) != expected:
            return f"{field} is {status[field]}"
    return ""


def check_template(template: Template) -> tuple[str, int]:
    """Look at a template after its import: why it is not fit to be forked, or "", and its private memory in bytes.

    Raises:
        OSError, KeyError, ValueError: it is gone, or going.
    """
    terms, pid = template.terms, template.pid
    status = _status(pid)
    problem = _walls(terms, status)
    if not problem and status["Threads"] != "1":
        problem = f"the import started {int(status['Threads']) - 1} thread(s), which a fork would lose"
    if not problem:
        problem = limits.as_jail(terms["identity"], lambda: _shared(pid))
    template.filters = int(status["Seccomp_filters"])
    template.cpu = limits.cpu_clock(pid)
    data = limits.data_bytes(pid)
    if not problem:
        limits.lower_other(pid, terms["identity"], {resource.RLIMIT_DATA: data + terms["memory"]})
    return problem, data


def _shared(pid: int) -> str:
    """Return what all calls of a template would share because its import left it open, or ""."""
    strays = [name for name in os.listdir(f"/proc/{pid}/fd") if int(name) > contain.CHANNEL + 1]
    if strays:
        what = os.readlink(f"/proc/{pid}/fd/{strays[0]}")
        return f"the import left {len(strays)} file(s) open (`{what[:100]}`), which all calls would share"
    with open(f"/proc/{pid}/maps", "rb") as maps:
        for line in maps:
            if line.split(None, 2)[1] in (b"rw-s", b"-w-s", b"rwxs"):
                return "the import left a writable shared mapping, which all calls would share"
    return ""


def check_call(child: Child, pid: int, parent: int) -> bool:
    """Look at a call that says it is locked down, and set its limits; True if it is.

    Raises:
        OSError, KeyError, ValueError, IndexError: it is gone, or going.
    """
    terms = child.template.terms
    status = _status(pid)
    child.base = int(status["VmHWM"].split()[0]) * 1024
    fit = (
        int(status["PPid"]) == parent
        and not _walls(terms, status)
        and int(status["Seccomp_filters"]) == child.template.filters + terms["tail"]
        and status["Threads"] == "1"
    )
    if fit:
        limits.lower_other(pid, terms["identity"], _call_limits(terms))
    return fit


def _call_limits(terms: Terms) -> dict[int, int]:
    values = {resource.RLIMIT_NOFILE: contain.CHANNEL + 1 + terms["file_handles"]}
    if terms["cpu"]:  # the backstop, whole seconds; the zygote's own clock is exact
        values[resource.RLIMIT_CPU] = terms["cpu"] // 1000 + 2
    if terms["call_userns"]:  # it counts the uid's tasks of the whole host, but within a user namespace it is exact
        values[resource.RLIMIT_NPROC] = terms["tasks"]
    return values


# --- being a template


def be_template(plan_file: int, place: int, null: int, parent: int, bootstrap: ModuleType | None) -> None:
    """Import the function behind the walls, and fork when told to. Runs in a fresh fork of the zygote; returns to exit.

    Args:
        plan_file, place, null: descriptors of the plan, of the socket to the zygote, of /dev/null.
        parent: the zygote's pid.
    """
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with open(plan_file, "rb", closefd=False) as file:
        plan: Plan = json.loads(file.read())
    for standard in range(3):
        os.dup2(null, standard)
    os.dup2(place, contain.CHANNEL, inheritable=False)
    system.close_range(contain.CHANNEL + 1)
    sock = _socket.socket(AF_UNIX, SOCK_SEQPACKET, 0, contain.CHANNEL)
    sibling_layer = landlock.sibling_layer(plan["abi"])
    watch = guest.Watch(plan["readable"], plan["changeable"])
    try:
        contain.template(plan, parent, lambda listener: send(sock, LISTENER, [listener]))
    except OSError as error:
        send(sock, FAILED + channel.pack({"wall": str(error)}), [])
        return
    watch.install()
    guest.capture()
    try:
        function = guest.load(plan, bootstrap)
        described = bootstrap.describe(function) if bootstrap and plan["code"].get("describe") else None
        ready = READY + channel.pack({"describe": described})
    except BaseException as error:  # whatever leaves the import is why there is no template
        needs = watch.missing(error)  # first: to show the source, the traceback opens files of its own
        raised = guest.explain(error)
        raised["needs"] = needs
        raised["message"] = raised["message"][:2000]
        raised["traceback"] = raised["traceback"][-8000:]
        send(sock, FAILED + channel.pack(raised), [])
        return
    gc.collect()
    gc.freeze()
    tail = a2b_base64(plan["tail"])
    send(sock, ready, [])
    while True:
        message, descriptors, _ = receive(sock)
        if not message:
            return
        if system.clone(plan["call_flags"]) == 0:
            contain.call(plan, parent, tail, sibling_layer, descriptors)
            os.write(contain.CHANNEL, HELLO)
            if function is None:
                guest.execute(contain.CHANNEL, init=plan["init"])
            else:
                guest.serve(contain.CHANNEL, function, watch)
            os._exit(0)
        for descriptor in descriptors:
            os.close(descriptor)


def memory_file(size: int) -> int:
    """Return a file in memory of a little more than `size` bytes that cannot grow: an output that needs no reader."""
    try:
        descriptor = os.memfd_create("output", _uapi.MFD_CLOEXEC | _uapi.MFD_ALLOW_SEALING | _uapi.MFD_NOEXEC_SEAL)
    except OSError:  # before Linux 6.3
        descriptor = os.memfd_create("output", _uapi.MFD_CLOEXEC | _uapi.MFD_ALLOW_SEALING)
    os.ftruncate(descriptor, (size // _PAGE + 1) * _PAGE)
    _seal(descriptor)
    return descriptor


def _seal(descriptor: int) -> None:
    import fcntl  # built in; imported where it is used to keep the templates small

    fcntl.fcntl(descriptor, _uapi.F_ADD_SEALS, _uapi.F_SEAL_GROW | _uapi.F_SEAL_SHRINK | _uapi.F_SEAL_SEAL)
