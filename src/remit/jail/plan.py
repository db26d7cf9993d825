"""Makes a JailSpec ready for this machine: filters compiled, paths resolved, ids chosen. Pure but for looking at paths."""

from __future__ import annotations

import os
import stat
from base64 import b64encode
from dataclasses import asdict
from typing import Any

from remit.jail import _uapi, interpreter, landlock, seccomp
from remit.jail.probe import Features
from remit.jail.spec import JailSpec, Plan

__all__ = ["make"]

_SIGCHLD = 17
_UIDS = 2_000_000_000  # above every range that systems give to people, services and containers
_DEVICES = ("/dev/null", "/dev/full", "/dev/random", "/dev/urandom")


def make(spec: JailSpec, features: Features, serial: int) -> Plan:
    """Return the plan of a template for `spec`.

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
    # A filter of its own costs each call 0.1 ms to install and 0.4 ms to take down (see docs/adr/0005). Where a pid
    # namespace, Landlock's signal scope and the listener do what it does, there is none.
    lean = own_mounts and features.landlock_abi >= 6 and features.listener
    rules = seccomp.template_rules(
        programs=bool(spec.execute),
        processes=not single,
        threads=threads,
        own_mounts=own_mounts,
        child_flags=flags,
        lean=lean,
    )
    roots, root_links = interpreter.resolve(spec.interpreter)
    reads, read_links = interpreter.resolve(spec.read)
    writes, write_links = interpreter.resolve(spec.write)
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
    read_only = sorted(path for path in {*roots, *reads, *runs, *needs} if path not in writes)
    links = sorted({(a, b) for a, b in [*root_links, *read_links, *write_links, *run_links]})
    identity = None
    if features.root and (own_mounts or all(_open_to_others(path) for path in roots)):
        # Otherwise (no mounts of ours, and an interpreter that only root can read) it stays uid 0 without capabilities.
        identity = [_UIDS + serial % 1_000_000_000] * 2
    return {
        "own_mounts": own_mounts,
        "read_only": read_only,
        "writable": writes,
        "devices": devices,
        "links": [list(pair) for pair in links],
        "tmp": spec.tmp,
        "identity": identity,
        "abi": features.landlock_abi,
        "paths": sorted(rights.items()),
        "notify": features.listener,
        "filter": _text(seccomp.assemble(rules, machine=features.machine, notify=features.listener)),
        "tail": "" if lean else _tail(features.machine, single=single),
        "call_flags": flags,
        "call_userns": features.call_userns,
        "cpu": spec.cpu,
        "tasks": spec.processes + max(0, spec.threads - 1),
        "memory": spec.memory if single else spec.memory // spec.processes,
        "file_handles": spec.file_handles,
        "file_size": max(spec.file_size, spec.output),
        "output": spec.output,
        "import_timeout": spec.import_timeout,
        "import_cpu": spec.import_cpu,
        "import_memory": spec.import_memory,
        "environment": [list(pair) for pair in spec.environment],
        "path": list(spec.path),
        "roots": sorted({*spec.interpreter, *spec.read, *roots, *reads, *(["/tmp"] if spec.tmp else [])}),  # noqa: S108
        "code": _code(spec),
    }


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


def _code(spec: JailSpec) -> dict[str, Any]:
    return asdict(spec.code)


def _tail(machine: str, *, single: bool) -> str:
    return _text(seccomp.assemble(seccomp.tail_rules(single=single), machine=machine, default=seccomp.ALLOW))


def _text(program: bytes) -> str:
    return b64encode(program).decode("ascii")
