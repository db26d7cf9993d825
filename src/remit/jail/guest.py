"""What runs inside: the template loads the function; each call decodes its request, calls, and encodes the result.

Nothing here is believed by the host: a function that wants to can replace all of it. What it reports (a traceback, the
grant that it missed) explains; the kernel enforces.
"""

from __future__ import annotations

import errno
import os
import signal
import sys
from importlib.machinery import ModuleSpec
from io import BufferedWriter, FileIO, TextIOWrapper

from remit.jail import channel

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from types import CodeType, ModuleType
    from typing import Any

    from remit.jail.spec import Plan

__all__ = ["Output", "Sources", "Watch", "capture", "execute", "explain", "load", "serve"]

_TEXT = 16_384  # an exception's message and traceback are cut to this many characters
_CHUNK = 1 << 14  # below what malloc(3) maps and unmaps for each buffer: a warm call touches no new page for it
_BALLAST = 512 * 1024  # given back when memory has run out, so that there is some to say so with
_REFUSED = (errno.EACCES, errno.EPERM, errno.ENOENT, errno.EROFS, errno.EAGAIN)


class Sources:
    """Imports the project's own modules from the text that the host shipped: their folder is not in the jail."""

    def __init__(self, modules: dict[str, list[Any]]) -> None:
        self._modules = modules

    def find_spec(
        self, name: str, _path: Sequence[str] | None = None, _target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """See importlib.abc.MetaPathFinder."""
        if name not in self._modules:
            return None
        file, _, package = self._modules[name]
        spec = ModuleSpec(name, self, origin=file, is_package=package)  # type: ignore[arg-type]
        spec.has_location = bool(file)
        return spec

    def create_module(self, spec: ModuleSpec) -> None:
        """Let the import system make the module."""

    def exec_module(self, module: ModuleType) -> None:
        """Run the module's source."""
        exec(self.get_code(module.__name__), module.__dict__)  # noqa: S102 - this is what a loader does, inside the jail

    def get_code(self, name: str) -> CodeType:
        """Compile the module's source under the name of its file, for tracebacks."""
        file, source, _ = self._modules[name]
        return compile(source, file or f"<{name}>", "exec", dont_inherit=True)

    def get_source(self, name: str) -> str:
        """Return the source, for tracebacks."""
        source: str = self._modules[name][1]
        return source


class Watch:
    """Remembers the last thing that no grant covers, to name the missing grant when an error leaves the function.

    An audit hook (PEP 578) runs before the operation and cannot see whether it is refused; raising in it would break
    code that probes for optional files. So it only remembers.
    """

    def __init__(self, roots: Sequence[str], writable: Sequence[str]) -> None:
        self._roots = tuple(roots)
        self._writable = tuple(writable)
        self._host: tuple[str, object] | None = None
        self.last: tuple[str, str] | None = None  # (grant, path or "")
        self._events = {
            "open": self._open,
            "os.listdir": self._listdir,
            "os.scandir": self._listdir,
            "os.mkdir": self._change,
            "os.remove": self._change,
            "os.rename": self._change,
            "socket.getaddrinfo": self._resolve,
            "socket.__new__": self._socket,
            "socket.connect": self._connect,
            "socket.sendto": self._connect,
            "subprocess.Popen": self._program,
            "os.posix_spawn": self._program,
            "os.exec": self._program,
            "os.system": self._shell,
            "os.fork": self._fork,
            "os.forkpty": self._fork,
        }

    def install(self) -> None:
        """Start watching; an audit hook cannot be removed."""
        events = self._events

        def hook(event: str, arguments: tuple[Any, ...]) -> None:
            handler = events.get(event)
            if handler is not None:
                try:
                    handler(arguments)
                except Exception:  # noqa: S110 - it must never change what the function sees
                    pass

        sys.addaudithook(hook)

    def _beneath(self, path: object, roots: tuple[str, ...]) -> tuple[bool, str]:
        if isinstance(path, int):
            return True, ""
        text = os.path.abspath(os.fsdecode(path))  # type: ignore[arg-type]
        return any(text == root or text.startswith(root.rstrip("/") + "/") for root in roots), text

    def _open(self, arguments: tuple[Any, ...]) -> None:
        path, _, flags = arguments
        writing = bool(flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND))
        inside, text = self._beneath(path, self._writable if writing else self._roots)
        if not inside:
            self.last = (f"file_system:{'write' if writing else 'read'}:{text}", text)

    def _listdir(self, arguments: tuple[Any, ...]) -> None:
        inside, text = self._beneath(arguments[0] if arguments[0] is not None else ".", self._roots)
        if not inside:
            self.last = (f"file_system:read:{text}", text)

    def _change(self, arguments: tuple[Any, ...]) -> None:
        inside, text = self._beneath(arguments[0], self._writable)
        if not inside:
            self.last = (f"file_system:write:{text}", text)

    def _resolve(self, arguments: tuple[Any, ...]) -> None:
        host, port = arguments[0], arguments[1]
        self._host = (host, port) if isinstance(host, str) else None
        self._network()

    def _socket(self, _arguments: tuple[Any, ...]) -> None:
        self._network()

    def _connect(self, arguments: tuple[Any, ...]) -> None:
        address = arguments[1]
        if isinstance(address, tuple) and len(address) >= 2:
            self._host = (str(address[0]), address[1])
        self._network()

    def _network(self) -> None:
        if self._host is None:
            self.last = ("network:HOST:PORT", "")
        else:
            host, port = self._host
            name = f"[{host}]" if ":" in host else host
            self.last = (f"network:{name}:{port}" if port else f"network:{name}", "")

    def _program(self, arguments: tuple[Any, ...]) -> None:
        self.last = (f"basic_execution:{os.fsdecode(arguments[0])}", "")

    def _shell(self, _arguments: tuple[Any, ...]) -> None:
        self.last = ("basic_execution:sh", "")

    def _fork(self, _arguments: tuple[Any, ...]) -> None:
        self.last = ("limit processes=2 or more", "")

    def missing(self, error: BaseException) -> str:
        """Return the grant whose want made `error`, as one would type it, or ""."""
        if self.last is None or not isinstance(error, OSError):
            return ""
        grant, path = self.last
        if type(error).__name__ in ("gaierror", "herror"):  # a resolver has numbers of its own
            return grant if grant.startswith("network:") else ""
        if error.errno not in _REFUSED:
            return ""
        name = os.fsdecode(error.filename) if isinstance(error.filename, (str, bytes)) else ""
        if path:  # a file that was opened is what is missing only if it is what the error is about
            return grant if name and os.path.abspath(name) == path else ""
        return grant if not name or grant.endswith(name) else ""


def load(plan: Plan, bootstrap: ModuleType | None) -> Callable[..., Any] | None:
    """Import or unpickle the function, inside the walls. None for a program.

    Raises:
        whatever the module raises.
    """
    code = plan["code"]
    os.environ.clear()
    os.environ.update(dict(pair for pair in plan["environment"]))
    sys.path[:] = plan["path"]
    sys.path_importer_cache.clear()
    sys.meta_path.insert(0, Sources(code["sources"]))
    if bootstrap is not None:
        bootstrap.prepare()
    # One thread: OpenBLAS and OpenMP start one per core at import, and threads do not survive a fork.
    single = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS")
    os.environ.update(dict.fromkeys(single, "1"))
    for name in code["preload"]:
        __import__(name)
    function: Any = None
    if code["kind"] == "module":
        __import__(code["module"])
        function = sys.modules[code["module"]]
        for part in code["attribute"].split("."):
            function = getattr(function, part)
    elif code["kind"] == "pickle":
        if bootstrap is None:
            raise ImportError("no loader for functions that travel by value")
        function = bootstrap.load_pickle(code["payload"])
    if plan["threads"]:
        for name in single:
            os.environ.pop(name, None)
    # Else what is imported later must not try to start any either: OpenBLAS ends its process when it cannot.
    os.environ.update({name: value for name, value in plan["environment"] if name in single})
    return function if code["kind"] != "program" else None


def serve(descriptor: int, function: Callable[..., Any], watch: Watch) -> None:
    """Be one call: read the request, run the function, answer, end."""
    ballast: bytearray | None = bytearray(_BALLAST)
    try:
        _rehearse()
        request = channel.unpack(_receive(descriptor))
        watch.last = None
        try:
            value = function(*request["args"], **request["kwargs"])
            if hasattr(value, "__await__"):
                import asyncio  # the template has imported it where the function is async

                value = asyncio.run(_await(value))
            frame = channel.pack({"value": value})
        except MemoryError as error:
            ballast = None
            frame = channel.pack({"memory": explain(error)})
        except channel.NotPlain as error:
            frame = channel.pack({"unplain": str(error)[:_TEXT]})
        except SystemExit as error:
            frame = channel.pack({"raised": {"type": "SystemExit", "message": str(error.code)[:200], "traceback": ""}})
        except BaseException as error:  # whatever leaves the function is its outcome
            needs = watch.missing(error)  # first: to show the source, the traceback opens files of its own
            raised = explain(error)
            raised["needs"] = needs
            frame = channel.pack({"raised": raised})
        for stream in (sys.stdout, sys.stderr):
            try:
                stream.flush()
            except (OSError, ValueError):  # the output is at its limit, or the function closed it
                pass
        _send(descriptor, frame)
    except MemoryError:
        ballast = None
        _send(descriptor, channel.pack({"memory": {"type": "MemoryError", "message": "", "traceback": ""}}))
    del ballast
    os.read(descriptor, 1)  # the host reads what was used, then ends this process


def _rehearse() -> None:
    """Go through the motions of a call, so that the pages that it will write are this process's own already.

    A fork shares its pages until they are written, and each first write costs microseconds: they are spent here, before
    there is a request. The numbers are of no matter, the code that runs is.
    """
    for _ in range(2):
        request = channel.unpack(channel.pack({"args": [1, "a", 1.5, None], "kwargs": {"a": [True, {"b": "c"}]}}))
        channel.FrameReader(64).feed(b"rmt1")
        channel.pack({"value": request["args"]})
    _reseed()


async def _await(value: Any) -> Any:
    return await value


class Output(FileIO):
    """Standard output or error: what is beyond its end is dropped, so that a noisy function keeps its result."""

    def write(self, data: Any) -> int:
        """See io.RawIOBase. The kernel says EPERM at the end of a sealed file, EFBIG at the limit of file sizes."""
        try:
            written = super().write(data)
        except OSError as error:
            if error.errno not in (errno.EPERM, errno.EFBIG):
                raise
            return memoryview(data).nbytes
        return written if written is not None else 0


def capture() -> None:
    """Let `sys.stdout` and `sys.stderr` of this template's calls end quietly at their limit."""
    for name, descriptor in (("stdout", 1), ("stderr", 2)):
        raw = Output(descriptor, "w", closefd=False)
        stream = TextIOWrapper(
            BufferedWriter(raw), encoding="utf-8", errors="backslashreplace", line_buffering=True, newline="\n"
        )
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)


def execute(descriptor: int, *, init: bool) -> None:
    """Become a program: read its arguments and execute it. Answers only when it cannot.

    Args:
        init: it may start processes, and this is the first of its pid namespace: stay, reap, and end as it ends.
    """
    request = channel.unpack(_receive(descriptor))
    for number in (
        signal.SIGPIPE,
        signal.SIGXFSZ,
        signal.SIGINT,
    ):  # as Python found them: a program expects the defaults
        signal.signal(number, signal.SIG_DFL)
    if init:
        program = os.fork()
        if program:
            os._exit(_outlive(program))
    try:
        os.chdir(request["cwd"])
        os.execve(request["program"], request["argv"], dict(request["environment"]))  # noqa: S606 - the granted one
    except OSError as error:
        _send(descriptor, channel.pack({"exec": [error.errno, os.strerror(error.errno or 0)]}))
        os._exit(127)


def _outlive(program: int) -> int:
    """Reap everything until `program` ends; returns its status as a shell would say it."""
    while True:
        pid, status = os.wait()
        if pid == program:
            return 128 + os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)


def explain(error: BaseException) -> dict[str, Any]:
    """Return an exception as text: its type, message and traceback without remit's own frames."""
    kind = type(error)
    name = (
        kind.__qualname__ if kind.__module__ in ("builtins", "__main__") else f"{kind.__module__}.{kind.__qualname__}"
    )
    try:
        message = str(error)[:_TEXT]
    except BaseException:  # an exception's own __str__ may raise anything
        message = "<its __str__ raised>"
    text = ""
    if not isinstance(error, MemoryError):
        try:
            import traceback  # only when there is something to show

            shown = error.__traceback__.tb_next if error.__traceback__ else None
            text = "".join(traceback.format_exception(kind, error, shown))[-_TEXT:]
        except BaseException:  # the same
            text = ""
    return {"type": _clean(name[:200]), "message": _clean(message), "traceback": _clean(text)}


def _clean(text: str) -> str:
    return text.encode("utf-8", "replace").decode("utf-8", "replace")


def _reseed() -> None:
    """Give this call randomness of its own: it is a copy of its template, like every other call."""
    modules = sys.modules
    if "random" in modules:
        modules["random"].seed()
    if "numpy.random" in modules:
        modules["numpy.random"].seed()
    if "ssl" in modules:  # OpenSSL notices a fork by the pid alone, and pids repeat
        modules["ssl"].RAND_add(os.urandom(32), 32.0)


def _receive(descriptor: int) -> bytes:
    reader = channel.FrameReader(1 << 31)
    while True:
        data = os.read(descriptor, _CHUNK)
        if not data:
            os._exit(0)  # the host has gone, or has no use for this call
        frame = reader.feed(data)
        if frame is not None:
            return frame


def _send(descriptor: int, frame: bytes) -> None:
    view = memoryview(frame)
    while view:
        view = view[os.write(descriptor, view) :]
