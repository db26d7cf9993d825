"""Decision + limits -> JailSpec. What comes out is never wider than what goes in."""

from __future__ import annotations

import glob
import os
import sys
from collections.abc import Iterable, Sequence

from remit.errors import PolicyError, SandboxUnavailable
from remit.jail import interpreter
from remit.jail.probe import GUARANTEES
from remit.jail.spec import Code, JailSpec
from remit.model.grants import GrantSet
from remit.model.limits import Constraints, Limits
from remit.model.pattern import Pattern
from remit.model.permission import FileScope, Permission, access
from remit.model.spelling import did_you_mean, shown
from remit.model.units import Bound, Unlimited
from remit.policy.paths import PROGRAM_FOLDERS

__all__ = ["NOT_REQUIRED", "compile_spec", "required"]

NOT_REQUIRED = frozenset({"file_metadata", "scratch_quota"})
"""Not required by default: hiding metadata needs namespaces; a quota is asked for when a scratch is granted."""

_UNBOUNDED = 1 << 46  # bytes; more than any machine has, less than what the kernel's counters take
_TMP = 64 << 20
_BROKERED = (Permission.NETWORK, Permission.ENV, Permission.LLM)


def required(require: Iterable[str] = (), accept_without: Iterable[str] = ()) -> tuple[str, ...]:
    """The guarantees that a call needs: the default, more by `require`, fewer by `accept_without`.

    Raises:
        PolicyError: there is no guarantee of that name.
    """
    for place, names in (("require", require), ("accept_without", accept_without)):
        for name in names:
            if name not in GUARANTEES:
                raise PolicyError(
                    f"unknown guarantee {shown(name)}", place=place, remedy=did_you_mean(name, GUARANTEES)
                )
    return tuple(sorted(((set(GUARANTEES) - NOT_REQUIRED) | set(require)) - set(accept_without)))


def compile_spec(
    *,
    owner: str,
    code: Code,
    grants: GrantSet,
    limits: Limits,
    constraints: Constraints,
    require: Sequence[str] = (),
    accept_without: Sequence[str] = (),
) -> JailSpec:
    """The jail of one call.

    Args:
        owner: the agent, who shares no template with another.
        code: what runs.
        grants: what the call may do, its denies inside; paths are resolved.
        limits: of the call.
        constraints: of the call.
        require: guarantees beside those required by default.
        accept_without: guarantees that may be missing.

    Raises:
        SandboxUnavailable: a grant needs what this version does not broker yet, or what no kernel can hold.
        PolicyError: `require` or `accept_without` names no guarantee.
    """
    for kind in _BROKERED:
        if grants.of_kind(kind):
            raise SandboxUnavailable(
                f"{kind} is not brokered yet",
                guarantee=kind.value,
                remedy=f"take `{kind}` from the function's permissions",
            )
    program = code.kind == "program"
    read, write, tmp = _files(grants)
    execute = _programs(grants)
    hide, freeze = _subtracted(grants, read, write)
    roots = interpreter.system_roots() if program else interpreter.python_roots()
    if execute:
        roots = tuple(dict.fromkeys([*roots, *_program_roots()]))
        if os.path.realpath(sys.executable) in execute:  # a Python that is not the system's keeps its library elsewhere
            roots = tuple(dict.fromkeys([*roots, *interpreter.python_roots()]))
    return JailSpec(
        owner=owner,
        code=code,
        path=interpreter.python_path(),
        interpreter=roots,
        read=read,
        write=write,
        execute=execute,
        hide=hide,
        freeze=freeze,
        cwd=_cwd((*read, *write)),
        tmp=_TMP if tmp else 0,
        devices=bool(execute),
        memory=_number(limits.memory, _UNBOUNDED),
        cpu=_number(limits.cpu, 0),
        timeout=_number(constraints.timeout, 0),
        file_handles=_number(limits.file_handles, 1 << 19),
        processes=_number(limits.processes, 1 << 15),
        threads=_number(limits.threads, 1 << 15),
        output=_number(limits.output, 1 << 30),
        file_size=_number(limits.file_size, _UNBOUNDED),
        result=_number(limits.result, 1 << 30),
        required=required(require, accept_without),
    )


def _cwd(granted: Sequence[str]) -> str:
    """The host's working directory where it lies within what was granted, so that relative paths mean what they say."""
    try:
        here = os.getcwd()
    except OSError:  # it was removed
        return "/"
    return here if any(_is_in(here, path) for path in granted) else "/"


def _number(bound: Bound, unlimited: int) -> int:
    return unlimited if isinstance(bound, Unlimited) else bound


def _files(grants: GrantSet) -> tuple[tuple[str, ...], tuple[str, ...], bool]:
    read, write, tmp = [], [], False
    for grant in grants.of_kind(Permission.FILE_SYSTEM):
        scope = grant.scope
        if not isinstance(scope, FileScope):
            continue
        if scope.path is None:
            tmp = True
            continue
        if scope.read:
            read.append(scope.path)
        if scope.write:
            write.append(scope.path)
    return tuple(sorted(read)), tuple(sorted(write)), tmp


def _subtracted(grants: GrantSet, read: Sequence[str], write: Sequence[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """What denies take out of granted folders: paths that are not to be seen, and paths that are not to be changed.

    A deny that lies in no granted folder takes nothing out: what it names is not there anyway.
    """
    hide: list[str] = []
    freeze: list[str] = []
    for deny in grants.denied:
        scope = deny.scope
        if not isinstance(scope, FileScope) or scope.path is None:
            continue
        hidden = scope.read and any(_is_in(scope.path, root) for root in read)
        frozen = scope.write and any(_is_in(scope.path, root) for root in write)
        if (hidden or frozen) and not os.path.lexists(scope.path):
            raise SandboxUnavailable(
                f"`deny {deny}` names what is not there, so nothing can be put over it",
                guarantee="files",
                remedy="create it, or grant folders that do not hold it",
            )
        if hidden:
            hide.append(scope.path)
        elif frozen:
            freeze.append(scope.path)
    return tuple(sorted(hide)), tuple(sorted(freeze))


def _is_in(path: str, root: str) -> bool:
    return path == root or path.startswith(root.rstrip("/") + "/")


def _programs(grants: GrantSet) -> tuple[str, ...]:
    """The programs that may be executed, by real path: what a deny names is out under each of its names."""
    scopes = (grant.scope for grant in grants.of_kind(Permission.BASIC_EXECUTION))
    found = {path for scope in scopes if isinstance(scope, Pattern) for path in _named(scope)}
    denies = (deny.scope for deny in grants.denied if deny.permission is Permission.BASIC_EXECUTION)
    denied = {path for scope in denies if isinstance(scope, Pattern) for path in _named(scope)}
    return tuple(sorted(path for path in found - denied if not _is_refused(grants, path)))


def _named(scope: Pattern) -> Iterable[str]:
    """The real paths of the programs that a pattern names."""
    first = scope.globs[0]
    places = [first] if "/" in first else [f"{folder}/{first}" for folder in PROGRAM_FOLDERS]
    for path in (path for place in places for path in glob.glob(place)):
        if (scope.matches(path) or scope.matches(os.path.basename(path))) and _runs(path):
            yield os.path.realpath(path)


def _is_refused(grants: GrantSet, path: str) -> bool:
    try:
        return grants.refuses(access("basic_execution", {"program": path})) is not None
    except ValueError:  # no grant can name such a path
        return True


def _runs(path: str) -> bool:
    return os.path.isfile(path) and os.access(path, os.X_OK)


def _program_roots() -> tuple[str, ...]:
    """What programs of the system read: its libraries, data and the few files that name them."""
    paths = ("/usr", "/bin", "/lib", "/lib64", "/etc/alternatives", "/etc/ld.so.cache", "/etc/localtime")
    return tuple(path for path in paths if os.path.exists(path))
