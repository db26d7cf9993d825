"""Permission and Grant: what may be asked for, written `kind` or `kind:scope`.

========================= ==========================================================================================
`network`                 any public address; `HOST[:PORT[-PORT]]` with `*.` wildcards, addresses, CIDR blocks
`basic_execution`         the function runs; `basic_execution:PROGRAM` may also start that program (path, name, glob)
`file_system`             `read:PATH`, `write:PATH`, `read,write:PATH` (all beneath), `tmp` (a private scratch)
`env`                     `env:NAME`, a variable of the host; globs
`llm`                     any model; `llm:MODEL`, globs
`function_registration`   adding functions
========================= ==========================================================================================

`Grant.covers` is a partial order and `Grant.meet` gives its greatest lower bounds. The bare kinds: `network` is every
public address and name, and no other; `basic_execution` is the least of its kind, as every `basic_execution:PROGRAM`
runs the function too; `file_system`, `env` and `llm` are the greatest of theirs.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import PurePath
from typing import Any, Final

from remit.errors import PolicyError
from remit.model.host import PUBLIC, Block, Name, Public, Target, parse_target
from remit.model.pattern import Pattern
from remit.model.spelling import did_you_mean, shown

__all__ = ["FileScope", "Grant", "NetworkScope", "Permission", "Scope", "access"]

_ALL_PORTS: Final = (1, 65535)
_LONGEST: Final = 4096  # PATH_MAX
_ENV_NAME: Final = re.compile(r"[A-Za-z0-9_.*&-]+", re.ASCII)
_MODEL_NAME: Final = re.compile(r"[A-Za-z0-9_.*&:/@+-]+", re.ASCII)
_PORT: Final = re.compile(r"[0-9]{1,5}", re.ASCII)


class Permission(StrEnum):
    """The six kinds of permission."""

    NETWORK = "network"
    BASIC_EXECUTION = "basic_execution"
    FILE_SYSTEM = "file_system"
    ENV = "env"
    LLM = "llm"
    FUNCTION_REGISTRATION = "function_registration"

    @classmethod
    def parse(cls, text: str) -> Permission:
        """The permission of that name, exactly.

        Raises:
            PolicyError: there is none.
        """
        try:
            return cls(text)
        except ValueError:
            raise PolicyError(f"unknown permission {shown(text)}", remedy=did_you_mean(text, cls)) from None


@dataclass(frozen=True, slots=True)
class NetworkScope:
    """A target, and the ports (first, last) of it."""

    target: Target
    ports: tuple[int, int] = _ALL_PORTS

    def __post_init__(self) -> None:
        first, last = self.ports
        if not 1 <= first <= last <= 65535:
            raise PolicyError(
                f"the ports {first}-{last} can never match", remedy="ports are 1 to 65535, the lower first"
            )

    def covers(self, other: NetworkScope) -> bool:
        """Whether every connection of `other` is one of these."""
        mine, its = self.target, other.target
        if not (self.ports[0] <= other.ports[0] and other.ports[1] <= self.ports[1]):
            return False
        if isinstance(mine, Public):
            return isinstance(its, Public) or its.public
        if isinstance(mine, Name):
            return isinstance(its, Name) and mine.covers(its)
        return isinstance(its, Block) and mine.covers(its)

    def meet(self, other: NetworkScope) -> tuple[NetworkScope, ...]:
        """The connections of both."""
        ports = (max(self.ports[0], other.ports[0]), min(self.ports[1], other.ports[1]))
        if ports[0] > ports[1]:
            return ()
        return tuple(NetworkScope(target, ports) for target in _meet_targets(self.target, other.target))

    def __str__(self) -> str:
        if self.ports == _ALL_PORTS:
            return str(self.target)
        first, last = self.ports
        return f"{self.target}:{first}" if first == last else f"{self.target}:{first}-{last}"


@dataclass(frozen=True, slots=True)
class FileScope:
    """All beneath `path` (absolute, normalised), or the private scratch when it is None."""

    path: str | None
    read: bool = True
    write: bool = True

    def __post_init__(self) -> None:
        if self.path is not None and (not self.path.startswith("/") or self.path != _normal(self.path)):
            raise PolicyError(f"{shown(self.path)} is not an absolute path in its normal form")
        if not (self.read or self.write) or (self.path is None and not (self.read and self.write)):
            raise PolicyError("a grant of files reads, writes, or both; the scratch does both")

    def reaches(self, other: FileScope) -> bool:
        """Whether `other`'s path is this one or beneath it, whatever the modes."""
        if self.path is None or other.path is None:
            return self.path == other.path
        return self.path in ("/", other.path) or other.path.startswith(self.path + "/")

    def covers(self, other: FileScope) -> bool:
        """Whether every access of `other` is one of these."""
        return self.reaches(other) and self.read >= other.read and self.write >= other.write

    def meet(self, other: FileScope) -> FileScope | None:
        """The accesses of both, or None."""
        read, write = self.read and other.read, self.write and other.write
        if not (read or write):
            return None
        if self.reaches(other):
            return FileScope(other.path, read, write)
        return FileScope(self.path, read, write) if other.reaches(self) else None

    def __str__(self) -> str:
        if self.path is None:
            return "tmp"
        modes = [mode for mode, on in (("read", self.read), ("write", self.write)) if on]
        return f"{','.join(modes)}:{self.path}"


Scope = NetworkScope | FileScope | Pattern
_ANY_PUBLIC: Final = NetworkScope(PUBLIC)


@dataclass(frozen=True, slots=True)
class Grant:
    """A permission with a scope.

    Attributes:
        permission: the kind.
        scope: None for a bare kind, but for `network`, whose scope is then any public address.
    """

    permission: Permission
    scope: Scope | None = None

    def __post_init__(self) -> None:
        if self.permission is Permission.NETWORK and self.scope is None:
            object.__setattr__(self, "scope", _ANY_PUBLIC)
        expected = _SCOPES[self.permission]
        if self.scope is not None and (expected is None or not isinstance(self.scope, expected)):
            raise PolicyError(f"`{self.permission}` cannot have the scope {shown(self.scope)}")
        if self.permission is Permission.LLM and isinstance(self.scope, Pattern) and self.scope.universal:
            object.__setattr__(self, "scope", None)

    @classmethod
    def parse(cls, text: str, *, base: PurePath | None = None, home: str | None = None) -> Grant:
        """A grant as users write it. No file is looked at; see `remit.policy.paths.resolve` for that.

        Args:
            text: such as `network:*.example.com:443` or `file_system:read:~/data`.
            base: the folder that relative paths start from; without it they are refused.
            home: what `~` stands for; without it `~` is refused.

        Raises:
            PolicyError: an unknown permission, or a scope that could never match or might be meant in two ways.
        """
        if not isinstance(text, str):
            raise PolicyError(f"a grant is text, found {shown(text)}")
        if len(text) > _LONGEST + 64:
            raise PolicyError(f"the grant {shown(text)} is too long")
        kind, colon, rest = text.partition(":")
        permission = Permission.parse(kind)
        if not colon:
            return cls(permission)
        try:
            return cls(permission, _parse_scope(permission, rest, base, home))
        except PolicyError as error:
            raise PolicyError(f"in {shown(text)}: {error.reason}", place=error.place, remedy=error.remedy) from None

    @property
    def bare(self) -> bool:
        """Whether it names its kind without a scope."""
        return self.scope is None or self.scope == _ANY_PUBLIC

    def covers(self, other: Grant) -> bool:
        """Whether all that `other` allows is allowed by this. A partial order."""
        if self.permission is not other.permission:
            return False
        if self.permission is Permission.BASIC_EXECUTION and other.scope is None:
            return True  # to start a program, the function runs
        if self.scope is None:
            return self.permission is not Permission.BASIC_EXECUTION
        if other.scope is None:
            return False
        return self.scope.covers(other.scope)  # type: ignore[arg-type]  # __post_init__: one kind, one type of scope

    def meet(self, other: Grant) -> tuple[Grant, ...]:
        """The greatest grants that both cover, none of them covering another; () when there are none."""
        if self.permission is not other.permission:
            return ()
        if self.scope is None or other.scope is None:
            return (other,) if self.covers(other) else (self,)
        found = self.scope.meet(other.scope)  # type: ignore[arg-type]  # as in covers
        if found is None and self.permission is Permission.BASIC_EXECUTION:
            return (Grant(self.permission),)
        scopes = found if isinstance(found, tuple) else (found,) if found is not None else ()
        return tuple(Grant(self.permission, scope) for scope in scopes)

    def refuses_all(self, other: Grant) -> bool:
        """As a deny: whether nothing is left of `other`. A bare kind refuses all of its kind, private addresses too."""
        if self.permission is not other.permission:
            return False
        if self.bare:
            return True
        if isinstance(self.scope, NetworkScope) and isinstance(other.scope, NetworkScope):
            if isinstance(self.scope.target, Public):
                return self.scope.covers(NetworkScope(PUBLIC, other.scope.ports))
            return self.scope.covers(other.scope)
        return other.scope is not None and self.covers(other)

    def refuses_some(self, other: Grant) -> bool:
        """As a deny: whether something that `other` allows is refused."""
        if self.permission is not other.permission:
            return False
        if self.bare:
            return True
        if other.scope is None:
            return self.permission is not Permission.BASIC_EXECUTION
        if isinstance(self.scope, NetworkScope) and isinstance(other.scope, NetworkScope):
            if isinstance(self.scope.target, Public):
                return bool(NetworkScope(other.scope.target, self.scope.ports).meet(other.scope))
            return bool(self.scope.meet(other.scope))
        return self.scope.meet(other.scope) is not None  # type: ignore[union-attr,arg-type]  # as in covers

    def parts(self) -> tuple[Grant, ...]:
        """This grant as grants that no two smaller ones make up: reading and writing are apart."""
        if isinstance(self.scope, FileScope) and self.scope.path is not None and self.scope.read and self.scope.write:
            path = self.scope.path
            return (
                Grant(self.permission, FileScope(path, read=True, write=False)),
                Grant(self.permission, FileScope(path, read=False, write=True)),
            )
        return (self,)

    def __str__(self) -> str:
        return str(self.permission) if self.bare else f"{self.permission}:{self.scope}"

    def __repr__(self) -> str:
        return f"Grant({str(self)!r})"


_SCOPES: Final[Mapping[Permission, type[NetworkScope | FileScope | Pattern] | None]] = {
    Permission.NETWORK: NetworkScope,
    Permission.BASIC_EXECUTION: Pattern,
    Permission.FILE_SYSTEM: FileScope,
    Permission.ENV: Pattern,
    Permission.LLM: Pattern,
    Permission.FUNCTION_REGISTRATION: None,
}


def access(action: str, context: Mapping[str, Any] | None = None) -> Grant:
    """A concrete request as the grant that would just allow it.

    Args:
        action: the name of a permission.
        context: `{"host": "api.github.com", "port": 443}` (without a port: any port), `{"path": "/data/x", "mode":
            "read"}` (without a mode: both), `{"program": "/usr/bin/git"}`, `{"name": "TOKEN"}`, `{"model": "gpt-5"}`,
            or nothing for the bare kind.

    Raises:
        PolicyError: an unknown permission or key: the caller's mistake.
        ValueError: a value that no request can have: perhaps a stranger's doing, to be refused.
    """
    permission = Permission.parse(action)
    given = dict(context or {})
    unknown = [key for key in given if key not in _ACCESS_KEYS[permission]]
    if unknown:
        raise PolicyError(f"{shown(unknown[0])} says nothing about `{permission}`", remedy=_keys_remedy(permission))
    if not given:
        return Grant(permission)
    first = _ACCESS_KEYS[permission][0]
    text = given.get(first)
    if not isinstance(text, str) or not text or "\0" in text:
        raise ValueError(f"{first} must be text that is not empty")
    if permission is Permission.NETWORK:
        return Grant(permission, _network_access(text, given.get("port")))
    if permission is Permission.FILE_SYSTEM:
        return Grant(permission, _file_access(text, given.get("mode", "read,write")))
    if "*" in text:
        raise ValueError(f"{first} must name one, without `*`")
    if permission is Permission.BASIC_EXECUTION and "/" in text:
        if not text.startswith("/"):
            raise ValueError("program must be a name or an absolute path")
        text = _normal(text)
    return Grant(permission, Pattern((text,), paths=permission is Permission.BASIC_EXECUTION))


_ACCESS_KEYS: Final[Mapping[Permission, tuple[str, ...]]] = {
    Permission.NETWORK: ("host", "port"),
    Permission.BASIC_EXECUTION: ("program",),
    Permission.FILE_SYSTEM: ("path", "mode"),
    Permission.ENV: ("name",),
    Permission.LLM: ("model",),
    Permission.FUNCTION_REGISTRATION: (),
}


def _keys_remedy(permission: Permission) -> str:
    keys = _ACCESS_KEYS[permission]
    return "known: " + ", ".join(f"`{key}`" for key in keys) if keys else "it takes nothing"


def _network_access(host: str, port: object) -> NetworkScope:
    try:
        target = parse_target(host.removeprefix("[").removesuffix("]"))
    except PolicyError as error:
        raise ValueError(error.reason) from None
    one = (isinstance(target, Name) and not target.wildcard) or (isinstance(target, Block) and target.single)
    if not one:
        raise ValueError("host must be one name or one address")
    if port is None:
        return NetworkScope(target)
    if isinstance(port, bool) or not isinstance(port, int) or not 1 <= port <= 65535:
        raise ValueError("port must be an integer from 1 to 65535")
    return NetworkScope(target, (port, port))


def _file_access(path: str, mode: object) -> FileScope:
    modes = set(mode.split(",")) if isinstance(mode, str) else set()
    if not modes or not modes <= {"read", "write"}:
        raise ValueError("mode must be `read`, `write` or `read,write`")
    if not path.startswith("/"):
        raise ValueError("path must be absolute")
    return FileScope(_normal(path), "read" in modes, "write" in modes)


def _meet_targets(one: Target, other: Target) -> tuple[Target, ...]:
    if isinstance(one, Public) or isinstance(other, Public):
        its = other if isinstance(one, Public) else one
        if isinstance(its, Block):
            return its.public_parts()
        return (its,) if isinstance(its, Public) or its.public else ()
    if isinstance(one, Name) and isinstance(other, Name):
        return (other,) if one.covers(other) else (one,) if other.covers(one) else ()
    if isinstance(one, Block) and isinstance(other, Block):
        return (other,) if one.covers(other) else (one,) if other.covers(one) else ()
    return ()


def _normal(path: str) -> str:
    # normpath keeps two leading slashes (POSIX leaves them to the system; Linux does not care)
    return posixpath.normpath("/" + path.lstrip("/"))


def _parse_scope(permission: Permission, text: str, base: PurePath | None, home: str | None) -> Scope:
    if permission is Permission.FUNCTION_REGISTRATION:
        raise PolicyError("`function_registration` has no scope", remedy="write `function_registration`")
    if not text:
        raise PolicyError(
            "the scope after `:` is empty and can never match", remedy=f"write `{permission}`, or a scope"
        )
    if "\0" in text:
        raise PolicyError("a scope cannot hold a NUL byte")
    if permission is Permission.NETWORK:
        return _parse_network(text)
    if permission is Permission.FILE_SYSTEM:
        return _parse_files(text, base, home)
    if permission is Permission.BASIC_EXECUTION:
        return _parse_programs(text, base, home)
    shape = _ENV_NAME if permission is Permission.ENV else _MODEL_NAME
    if not shape.fullmatch(text):
        raise PolicyError(
            f"{shown(text)} can never match a name",
            remedy="letters, digits and `_.-`, with `*` for any run of characters",
        )
    return _pattern(text.split("&"), paths=False)


def _pattern(globs: list[str], *, paths: bool) -> Pattern:
    found = Pattern.of(globs, paths=paths) if all(globs) else None
    if found is None:
        raise PolicyError(f"{shown('&'.join(globs))} can never match", remedy="`&` asks for what both sides match")
    return found


def _parse_network(text: str) -> NetworkScope:
    if "://" in text:
        raise PolicyError("a grant names a host, not a URL", remedy="write `network:HOST:PORT`")
    host, port = text, ""
    if text.startswith("["):
        host, bracket, rest = text[1:].partition("]")
        if rest.startswith("/"):
            length, colon, port = rest.partition(":")
            host, rest = host + length, colon + port
        if not bracket or ":" not in host or (rest and not rest.startswith(":")):
            raise PolicyError(
                "the brackets must hold an IPv6 address", remedy="write `[::1]:443` or `[2001:db8::/32]:443`"
            )
        port = rest
    elif text.count(":") > 1:
        raise PolicyError(
            f"{shown(text)} can be read in two ways", remedy="put an IPv6 address in brackets: `[::1]:443`"
        )
    else:
        host, colon, after = text.partition(":")
        port = colon + after
    return NetworkScope(parse_target(host), _parse_ports(port) if port else _ALL_PORTS)


def _parse_ports(text: str) -> tuple[int, int]:
    first, dash, last = text[1:].partition("-")
    if not _PORT.fullmatch(first) or (dash and not _PORT.fullmatch(last)):
        raise PolicyError(f"{shown(text[1:])} is not a port", remedy="write `443` or `8000-8100`")
    return int(first), int(last) if dash else int(first)


def _parse_files(text: str, base: PurePath | None, home: str | None) -> FileScope:
    if text == "tmp":
        return FileScope(None)
    modes, colon, path = text.partition(":")
    names = modes.split(",")
    if not colon:
        meant = text if text.startswith(("/", ".", "~")) else "PATH"
        raise PolicyError(
            f"{shown(text)} does not say whether to read or to write",
            remedy=f"write `file_system:read:{meant}`, `file_system:write:{meant}` or `file_system:tmp`",
        )
    for name in names:
        if name not in ("read", "write"):
            raise PolicyError(f"unknown mode {shown(name)}", remedy=did_you_mean(name, ("read", "write")))
    if "*" in path:
        raise PolicyError("a path has no globs: a grant covers all beneath it", remedy="name the folder")
    return FileScope(_absolute(path, base, home), "read" in names, "write" in names)


def _absolute(path: str, base: PurePath | None, home: str | None) -> str:
    if not path or len(path) > _LONGEST:
        raise PolicyError("the path is empty, or longer than any path", remedy="name a file or a folder")
    if path == "~" or path.startswith("~/"):
        if not home or not home.startswith("/"):
            raise PolicyError("`~` stands for nothing here, as no home folder is known", remedy="write the whole path")
        return _normal(home + path[1:])
    if path.startswith("~"):
        raise PolicyError(f"{shown(path)} names another user's home", remedy="write the whole path, or `./~...`")
    if path.startswith("/"):
        return _normal(path)
    if base is None:
        raise PolicyError(f"{shown(path)} is relative to nothing that is known here", remedy="write the whole path")
    if not base.is_absolute():
        raise PolicyError(f"the base {shown(base)} is not absolute")
    return _normal(f"{base}/{path}")


def _parse_programs(text: str, base: PurePath | None, home: str | None) -> Pattern:
    globs = []
    for part in text.split("&"):
        if any(mark in part for mark in "?[]"):
            raise PolicyError(f"{shown(part)} can never match: `*` is the only wildcard")
        globs.append(_absolute(part, base, home) if "/" in part or part.startswith("~") else part)
    if {".", "..", "/"} & set(globs):
        raise PolicyError("a folder cannot be run", remedy="name a program")
    return _pattern(globs, paths=True)
