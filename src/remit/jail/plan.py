"""Makes a JailSpec ready for this machine: filters compiled, paths resolved, ids chosen. It only looks at paths."""

from __future__ import annotations

import os
import stat
from base64 import b64encode
from dataclasses import asdict

from remit.jail import _uapi, interpreter, landlock, seccomp
from remit.jail.probe import Features
from remit.jail.spec import JailSpec, Plan, Terms

__all__ = ["make"]

_SIGCHLD = 17
_UIDS = 2_000_000_000  # above every range that systems give to people, services and containers
_DEVICES = ("/dev/null", "/dev/full", "/dev/random", "/dev/urandom")
_SCRATCH = "/scratch/tmp"
# Page tables are 1/512 of the addresses touched, and counted nowhere: 32 MiB, and 128 for runtimes that reserve.
_ADDRESSES, _PROGRAM_ADDRESSES = 16 << 30, 64 << 30
_STRAY = 4096  # processes that a hostile template can have for the second until the zygote sees them


def make(spec: JailSpec, features: Features, serial: int) -> tuple[Plan, Terms]:
    """Return the plan of a template for `spec`, and what of it the zygote needs to know.

    Args:
        serial: as root each template has a uid of its own, so that two never share signals or counts: this picks it.

    Raises:
        OSError: a path of the spec does not exist.
    """
    own_mounts = features.namespaces
    single = spec.processes == 1
    flags = _uapi.CLONE_PARENT | _SIGCHLD
    if features.call_userns:
        flags |= _uapi.CLONE_NEWUSER
        if not single:
            flags |= _uapi.CLONE_NEWPID
        if spec.tmp:
            flags |= _uapi.CLONE_NEWNS
    # Where the count of tasks would not be exact, none may be started at all: a limit is enforced or refused.
    threads = spec.threads > 1 and features.call_userns
    # A filter of its own costs each call half a millisecond to install and take down (docs/adr/0005). Where a pid
    # namespace, Landlock's signal scope and the listener do what it does, there is none.
    lean = own_mounts and features.landlock_abi >= 6 and features.listener
    identity = None
    rules = seccomp.template_rules(
        programs=bool(spec.execute),
        processes=not single,
        threads=threads,
        own_mounts=own_mounts,
        child_flags=flags,
        lean=lean,
        signals=features.landlock_abi >= 6 or features.root or not single,
        truncation=features.landlock_abi >= 3 or own_mounts,
        remap=features.stack_sealed and not spec.execute,
    )
    roots, root_links = interpreter.resolve(spec.interpreter)
    reads, read_links = interpreter.resolve(spec.read)
    writes, write_links = interpreter.resolve(spec.write)
    frozen, freeze_links = interpreter.resolve(spec.freeze)
    hidden, hide_links = interpreter.resolve(spec.hide)
    for path in (*spec.freeze, *spec.hide):
        os.stat(path)
    runs, run_links = interpreter.resolve(spec.execute)
    needs = [os.path.realpath(need) for program in runs for need in interpreter.program_needs(program)]
    rights: dict[str, int] = {}
    for paths, right in (
        (roots, landlock.READ),
        (reads, landlock.READ),
        (writes, landlock.WRITE),
        ([*runs, *needs], landlock.READ | landlock.EXECUTE),
    ):
        for path in paths:
            rights[path] = rights.get(path, 0) | right
    devices = [device for device in _DEVICES if spec.devices and os.path.exists(device)]
    for device in devices:
        rights[device] = landlock.READ | landlock.WRITE
    if spec.tmp:
        rights["/scratch"] = landlock.READ | landlock.WRITE
    read_only = sorted({path for path in {*roots, *reads, *runs, *needs} if path not in writes} | {*frozen})
    links = sorted(
        {(a, b) for a, b in [*root_links, *read_links, *write_links, *run_links, *freeze_links, *hide_links]}
    )
    if features.root and (own_mounts or all(_open_to_others(path) for path in roots)):
        # Otherwise (no mounts of ours, and an interpreter that only root can read) it stays uid 0 without capabilities.
        identity = [_UIDS + serial % 1_000_000_000] * 2
    shown = ["/tmp", _SCRATCH] if spec.tmp else []  # noqa: S108 - the jail's own
    tasks = spec.processes if not single else max(1, spec.threads)
    init = spec.code.kind == "program" and not single
    plan: Plan = {
        "own_mounts": own_mounts,
        "read_only": read_only,
        "writable": writes,
        "granted": _granted(reads, writes, runs, frozen),
        "hide": hidden,
        "devices": devices,
        "links": [list(pair) for pair in links],
        "cwd": os.path.realpath(spec.cwd),
        "identity": identity,
        "abi": features.landlock_abi,
        "paths": sorted(rights.items()),
        "notify": features.listener,
        "filter": _text(seccomp.assemble(rules, machine=features.machine, notify=features.listener)),
        "tail": "" if lean else _tail(features.machine, single=single),
        "call_flags": flags,
        "call_userns": features.call_userns,
        "threads": threads,
        "init": init,
        "file_handles": spec.file_handles,
        "file_size": max(spec.file_size, spec.output),
        "import_memory": spec.import_memory,
        "addresses": max(_PROGRAM_ADDRESSES if spec.execute else _ADDRESSES, min(8 * spec.memory, 1 << 62)),
        "stray": _STRAY if features.call_userns else 0,
        "environment": _environment(spec, [*read_only, *writes]),
        "path": list(spec.path),
        "readable": sorted({*spec.interpreter, *spec.read, *roots, *reads, *devices, *shown}),
        "changeable": sorted({*spec.write, *writes, *devices, *shown}),
        "code": asdict(spec.code),
    }
    terms: Terms = {
        "identity": identity,
        "notify": features.listener,
        "tail": not lean,
        "call_userns": features.call_userns,
        "tree": not single,
        "cpu": spec.cpu,
        "tasks": tasks + 1 if init else tasks,
        "memory": spec.memory if single else spec.memory // spec.processes,
        "file_handles": spec.file_handles,
        "output": spec.output,
        "tmp": spec.tmp,
        "import_timeout": spec.import_timeout,
        "import_cpu": spec.import_cpu,
    }
    return plan, terms


def _granted(reads: list[str], writes: list[str], runs: list[str], frozen: list[str]) -> list[tuple[str, int]]:
    modes = [(path, os.R_OK) for path in reads] + [(path, os.W_OK) for path in writes]
    modes += [(path, os.X_OK) for path in runs] + [(path, os.F_OK) for path in frozen]
    return [(path, mode | os.X_OK if os.path.isdir(path) else mode) for path, mode in modes]


def _environment(spec: JailSpec, mounted: list[str]) -> list[list[str]]:
    """Return the variables of a call. A path beneath /tmp takes the name of the scratch: TMPDIR says where it is."""
    pairs = [list(pair) for pair in spec.environment]
    beneath = any(path == "/tmp" or path.startswith("/tmp/") for path in mounted)  # noqa: S108 - only compared
    if spec.tmp and not any(name == "TMPDIR" for name, _ in pairs):
        pairs.append(["TMPDIR", _SCRATCH if beneath else "/tmp"])  # noqa: S108 - the jail's own
    return pairs


def _open_to_others(path: str) -> bool:
    """Whether an unprivileged user can reach and read `path`."""
    mode = os.stat(path).st_mode
    if not mode & stat.S_IROTH:
        return False
    while path != "/":
        path = os.path.dirname(path)
        if not os.stat(path).st_mode & stat.S_IXOTH:
            return False
    return True


def _tail(machine: str, *, single: bool) -> str:
    return _text(seccomp.assemble(seccomp.tail_rules(single=single), machine=machine, default=seccomp.ALLOW))


def _text(program: bytes) -> str:
    return b64encode(program).decode("ascii")
