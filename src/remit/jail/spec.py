"""JailSpec: everything about a jail, fully resolved, with nothing left to decide. And what comes back from one."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, TypedDict

__all__ = ["Code", "Ending", "JailSpec", "Plan", "Refusal", "Terms", "Usage"]


_OF_ONE_CALL = ("timeout", "required", "digest")  # what differs between calls of one template


@dataclass(frozen=True, slots=True)
class Code:
    """What runs in the jail.

    Attributes:
        kind: `module` (import `module`, take `attribute`), `pickle` (load `payload` by cloudpickle, inside the jail
            only), or `program` (execute).
        module, attribute: the dotted name of the module and of the function in it.
        sources: the project's own modules, by name: (file name for tracebacks, source text, whether a package).
        payload: the pickled function, base64 text.
        preload: modules to import in the template because every call needs them.
        describe: also answer with the function's signature and docstring, as plain data.
    """

    kind: Literal["module", "pickle", "program"]
    module: str = ""
    attribute: str = ""
    sources: Mapping[str, tuple[str, str, bool]] = field(default_factory=dict)
    payload: str = ""
    preload: tuple[str, ...] = ()
    describe: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class JailSpec:
    """One jail. Paths are absolute and resolved; sizes are bytes, times are milliseconds, counts are counts.

    Attributes:
        owner: whose jail: two owners never share a template.
        code: what runs.
        path: `sys.path` inside, the interpreter's own folders included.
        interpreter: folders and files that the interpreter needs, read-only.
        read, write, execute: the granted paths. A path may stand in several.
        hide: paths beneath a grant that are masked by an empty mount; they exist.
        freeze: paths beneath a write grant that stay readable, if read was granted, and cannot be changed; they exist.
        cwd: the working directory, which must be within a grant, or `/`.
        links: symbolic links to make where mounts are ours: (link, target).
        tmp: size of a private scratch in bytes, 0 for none.
        devices: whether /dev/null, zero, full, random, urandom are there.
        environment: the variables inside.
        memory: what the call may add to its template.
        cpu, timeout: of one call. file_handles, processes, threads, output, file_size, result: likewise. With more
            than one process, threads count as processes, so that memory / processes for each keeps the sum; the
            kernel counts output as a file, so that `file_size` is at least `output`.
        import_timeout, import_cpu, import_memory: of the template's import.
        required: names of the guarantees without which the call must not run.
    """

    owner: str
    code: Code
    path: tuple[str, ...] = ()
    interpreter: tuple[str, ...] = ()
    read: tuple[str, ...] = ()
    write: tuple[str, ...] = ()
    execute: tuple[str, ...] = ()
    links: tuple[tuple[str, str], ...] = ()
    hide: tuple[str, ...] = ()
    freeze: tuple[str, ...] = ()
    cwd: str = "/"
    tmp: int = 0
    devices: bool = False
    environment: tuple[tuple[str, str], ...] = ()
    memory: int = 256 << 20
    cpu: int = 1_000
    timeout: int = 5_000
    file_handles: int = 100
    processes: int = 1
    threads: int = 64
    output: int = 1 << 20
    file_size: int = 64 << 20
    result: int = 1 << 20
    import_timeout: int = 30_000
    import_cpu: int = 10_000
    import_memory: int = 1 << 30
    required: tuple[str, ...] = ()
    digest: str = field(default="", init=False, repr=False, compare=False)

    def key(self) -> str:
        """Return the digest of all that a template is made from: calls with the same key may share one."""
        if not self.digest:
            parts = {name: value for name, value in asdict(self).items() if name not in _OF_ONE_CALL}
            object.__setattr__(self, "digest", hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest())
        return self.digest


class Terms(TypedDict):
    """What the zygote itself needs to know of a template. Nothing of its code or environment: the zygote's memory is
    copied into every template, and two owners share nothing.
    """

    identity: list[int] | None  # uid and gid to become, as root
    notify: bool  # whether the long filter has a listener
    tail: bool  # whether a call adds a filter of its own
    call_userns: bool  # whether a call has a user namespace of its own, so that RLIMIT_NPROC is exact
    tree: bool  # whether a call may have children, whose CPU time counts
    cpu: int
    tasks: int  # processes and threads of a call
    memory: int
    file_handles: int
    output: int
    tmp: int
    import_timeout: int
    import_cpu: int


class Plan(TypedDict):
    """A JailSpec made ready for this machine: what a template carries out without deciding anything."""

    own_mounts: bool  # a root of its own, of the binds below
    read_only: list[str]
    writable: list[str]
    granted: list[tuple[str, int]]  # what the jail's user must be able to do (access(2)) with which path
    hide: list[str]
    devices: list[str]
    links: list[list[str]]
    cwd: str
    identity: list[int] | None  # uid and gid to become, as root
    abi: int  # Landlock's
    paths: list[tuple[str, int]]  # Landlock's rules
    notify: bool  # whether the long filter has a listener
    filter: str  # base64 of the long filter
    tail: str  # base64 of the short one, with seccomp.PID_PLACE in it; "" where the long one does it all
    call_flags: int  # clone flags of a call
    call_userns: bool  # whether they hold CLONE_NEWUSER
    threads: bool  # whether a call may start any
    init: bool  # whether a program needs a first process above it that reaps
    file_handles: int
    file_size: int
    import_memory: int
    addresses: int
    stray: int  # how many processes of its uid a template may have alive at most, 0 where they cannot be told
    environment: list[list[str]]
    path: list[str]
    readable: list[str]  # what may be read, and what written, for messages only
    changeable: list[str]
    code: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Usage:
    """What a call used, by the kernel's accounting: milliseconds, bytes."""

    wall_ms: float = 0.0
    cpu_user_ms: float = 0.0
    cpu_system_ms: float = 0.0
    peak_memory: int = 0
    output_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Refusal:
    """What a jail tried and was refused.

    Attributes:
        call: the jail's number, or None while its template imports.
        what: the system call, or the operation in words.
        resource: upon what, where that can be told.
        seen_by: `kernel` (a notification) or `guest` (reported from inside: not to be trusted).
    """

    call: int | None
    what: str
    resource: str
    seen_by: Literal["kernel", "guest"]


Status = Literal["returned", "raised", "limit", "denied", "killed", "crashed"]


@dataclass(frozen=True, slots=True)
class Ending:
    """How a jail ended.

    Attributes:
        status: one of `Status`.
        value: what the function returned, plain data.
        what: which limit, what was denied, who killed, which signal; or the type of what was raised.
        message, traceback: text of an exception.
        exit_status: a program's own exit status.
        stdout, stderr: what it wrote, capped.
        output_truncated: whether it wrote more than `output` to either; the function is not told.
        refusals: what it tried and was refused, in order, at most 100.
        usage: what it used.
        used, bound: for a limit, in its unit.
        tier: the mechanisms under which it ran.
    """

    status: Status
    value: Any = None
    what: str = ""
    message: str = ""
    traceback: str = ""
    exit_status: int | None = None
    stdout: bytes = b""
    stderr: bytes = b""
    output_truncated: bool = False
    refusals: tuple[Refusal, ...] = ()
    usage: Usage = Usage()
    used: int | None = None
    bound: int | None = None
    tier: str = ""
