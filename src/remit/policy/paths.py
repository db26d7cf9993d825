"""Where grants meet the file system: paths and programs are resolved once, when the policy is loaded.

What is checked later is the resolved path, so a symlink that is changed afterwards leads nowhere new.
"""

from __future__ import annotations

import glob as globbing
import os
from collections.abc import Iterable
from typing import Final

from remit.errors import PolicyError
from remit.model.pattern import Pattern
from remit.model.permission import FileScope, Grant, Permission
from remit.model.spelling import shown

__all__ = ["PROGRAM_FOLDERS", "resolve", "resolve_all", "resolve_deny"]

PROGRAM_FOLDERS: Final = ("/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin")
"""Where the name of a program is looked for, in this order; the host's PATH is not asked, as it may be anybody's."""


def resolve(grant: Grant) -> tuple[Grant, ...]:
    """The grant with its path resolved: symlinks followed, names of programs found, name globs in each folder.

    Returns:
        One grant; more for a glob of program names, one for each folder that has such programs.

    Raises:
        PolicyError: nothing is there.
    """
    if isinstance(grant.scope, FileScope) and grant.scope.path is not None:
        path = _real(grant.scope.path, grant)
        return (Grant(grant.permission, FileScope(path, grant.scope.read, grant.scope.write)),)
    if grant.permission is Permission.BASIC_EXECUTION and isinstance(grant.scope, Pattern):
        return _resolve_programs(grant, grant.scope)
    return (grant,)


def resolve_all(grants: Iterable[Grant]) -> tuple[Grant, ...]:
    """`resolve`, of each.

    Raises:
        PolicyError: as `resolve`.
    """
    return tuple(resolved for grant in grants for resolved in resolve(grant))


def resolve_deny(grants: Iterable[Grant]) -> tuple[Grant, ...]:
    """Denies, resolved as far as there is something: what is not there yet is refused all the same when it comes.

    Beside the resolved path the one that was written stays refused, should a symlink on it change.
    """
    found: list[Grant] = []
    for grant in grants:
        found.append(grant)
        if isinstance(grant.scope, FileScope) and grant.scope.path is not None:
            path = os.path.realpath(grant.scope.path)
            found.append(Grant(grant.permission, FileScope(path, grant.scope.read, grant.scope.write)))
        elif grant.permission is Permission.BASIC_EXECUTION and isinstance(grant.scope, Pattern):
            found += _programs_denied(grant.scope)
    return tuple(dict.fromkeys(found))


def _real(path: str, grant: Grant) -> str:
    try:
        return os.path.realpath(path, strict=True)
    except OSError as error:
        reason = error.strerror or str(error)
        raise PolicyError(
            f"{shown(path)} of `{grant}` cannot be resolved: {reason.lower()}",
            remedy="create it, or grant a folder that is there",
        ) from None


def _runs(path: str) -> bool:
    return os.path.isfile(path) and os.access(path, os.X_OK)


def _folders() -> tuple[str, ...]:
    return tuple(dict.fromkeys(os.path.realpath(folder) for folder in PROGRAM_FOLDERS if os.path.isdir(folder)))


def _resolve_programs(grant: Grant, pattern: Pattern) -> tuple[Grant, ...]:
    if pattern.universal:
        return (grant,)
    if pattern.literal is not None:
        return (_program(grant, _find_program(pattern.literal, grant)),)
    globs = pattern.globs
    found = (
        _in_folders(globs)
        if "/" not in globs[0]
        else [Pattern.of((_real_folder(glob, grant) for glob in globs), paths=True)]
    )
    patterns = [placed for placed in found if placed is not None and any(map(_runs, _matches(placed)))]
    if not patterns:
        raise PolicyError(f"no program is matched by `{grant}`", remedy="install it, or name what is there")
    return tuple(Grant(Permission.BASIC_EXECUTION, placed) for placed in patterns)


def _find_program(name: str, grant: Grant) -> str:
    if "/" in name:
        path = _real(name, grant)
        if not _runs(path):
            raise PolicyError(f"{shown(path)} of `{grant}` is not a program", remedy="name a file that can be run")
        return path
    for folder in _folders():
        if _runs(f"{folder}/{name}"):
            return os.path.realpath(f"{folder}/{name}")
    raise PolicyError(
        f"the program {shown(name)} of `{grant}` is not there",
        remedy=f"install it, or write its whole path; looked in {', '.join(_folders())}",
    )


def _in_folders(globs: Iterable[str]) -> list[Pattern | None]:
    names = tuple(globs)
    return [Pattern.of((f"{folder}/{name}" for name in names), paths=True) for folder in _folders()]


def _real_folder(glob: str, grant: Grant) -> str:
    """`/usr/lib/x*/y` with the folders before the first `*` resolved."""
    head, _, _ = glob.partition("*")
    folder = os.path.dirname(head)
    real = _real(folder, grant)
    return ("" if real == "/" else real) + glob[len(folder.rstrip("/")) :]


def _matches(pattern: Pattern) -> list[str]:
    first = "*".join(globbing.escape(piece) for piece in pattern.globs[0].split("*"))
    return [path for path in globbing.glob(first, include_hidden=True) if pattern.matches(path)]


def _program(grant: Grant, path: str) -> Grant:
    return Grant(grant.permission, Pattern((path,), paths=True))


def _programs_denied(pattern: Pattern) -> list[Grant]:
    if pattern.universal or "/" in pattern.globs[0]:
        literal = pattern.literal
        real = [os.path.realpath(literal)] if literal is not None and literal.startswith("/") else []
        return [Grant(Permission.BASIC_EXECUTION, Pattern((path,), paths=True)) for path in real]
    found: list[Grant] = []
    for placed in _in_folders(pattern.globs):
        if placed is not None:
            found.append(Grant(Permission.BASIC_EXECUTION, placed))
            # a name may be a link to another program: refusing `vi` refuses what it leads to
            found += [
                Grant(Permission.BASIC_EXECUTION, Pattern((os.path.realpath(path),), paths=True))
                for path in _matches(placed)
                if "*" not in os.path.realpath(path)
            ]
    return found
