"""The sections of a policy file: from plain data to typed values, each error with its place.

Keys are snake_case; camelCase is taken as well. A key that is not known, or that is given in two spellings, is an
error.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import Any, Final, TypeVar

from remit.errors import PolicyError
from remit.model.limits import Constraints, Limits, RateLimits
from remit.model.permission import Grant, Permission
from remit.model.principal import Principal
from remit.model.spelling import did_you_mean, shown, snake
from remit.model.units import RateLimit, Unlimited, bytes_of
from remit.policy.decide import RESTRICTED
from remit.policy.document import Document

__all__ = [
    "AgentEntry",
    "AuditSection",
    "MonitoringSection",
    "PermissionsSection",
    "PolicyFile",
    "RateLimitingSection",
    "ValidationSection",
    "read",
]

LEVELS: Final = ("debug", "info", "warning", "error")
FSYNC: Final = ("batch", "all")
LEAF_TYPES: Final = ("string", "number", "boolean", "null", "bytes")

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True, kw_only=True)
class PermissionsSection:
    """`default`: what a function or agent has that declares none. `restricted`: never had by default, never bare."""

    enabled: bool = True
    default: tuple[Grant, ...] = (Grant(Permission.BASIC_EXECUTION),)
    restricted: tuple[Permission, ...] = RESTRICTED
    i_accept_no_enforcement: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ValidationSection:
    """`max_size` in bytes. `enabled: false` drops schema and content checks; size, encoding and structure stay."""

    enabled: bool = True
    max_size: int = 1 << 20
    allowed_types: tuple[str, ...] = ("string", "number", "boolean")


@dataclass(frozen=True, slots=True, kw_only=True)
class RateLimitingSection:
    """`limits.given` says which of the numbers the file sets."""

    enabled: bool = True
    limits: RateLimits = field(default_factory=RateLimits)


@dataclass(frozen=True, slots=True, kw_only=True)
class MonitoringSection:
    """`level`: `debug`, `info`, `warning` or `error`."""

    enabled: bool = True
    level: str = "info"
    audit_trail: bool = True
    i_accept_no_audit: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditSection:
    """Paths as text, absolute; None where the file does not say. `fsync`: `batch` or `all`."""

    path: str | None = None
    anchor: str | None = None
    fsync: str = "batch"


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentEntry:
    """What the file gives one agent: its ceiling. `permissions` is None where the file does not say."""

    name: str
    place: str
    permissions: tuple[Grant, ...] | None = None
    deny: tuple[Grant, ...] = ()
    constraints: Constraints = field(default_factory=Constraints)
    limits: Limits = field(default_factory=Limits)
    rate_limits: RateLimits = field(default_factory=RateLimits)


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyFile:
    """A whole file. `agents` is None where it has no such section, and code alone decides.

    Attributes:
        given: the dotted keys that the file gives (`audit.path`), each with its place.
    """

    source: str
    permissions: PermissionsSection = field(default_factory=PermissionsSection)
    validation: ValidationSection = field(default_factory=ValidationSection)
    rate_limiting: RateLimitingSection = field(default_factory=RateLimitingSection)
    monitoring: MonitoringSection = field(default_factory=MonitoringSection)
    audit: AuditSection = field(default_factory=AuditSection)
    agents: Mapping[str, AgentEntry] | None = None
    given: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Reader:
    document: Document
    base: PurePath | None
    home: str | None
    given: dict[str, str] = field(default_factory=dict)

    def section(
        self, data: object, path: tuple[str | int, ...], known: Mapping[str, str]
    ) -> dict[str, tuple[Any, tuple[str | int, ...]]]:
        """The known keys of a mapping with their values and paths; `known` maps each spelling to the name."""
        if data is None:
            return {}
        mapping = self.mapping(data, path)
        found: dict[str, tuple[Any, tuple[str | int, ...]]] = {}
        for key, value in mapping.items():
            here = (*path, key)
            name = known.get(snake(key)) if isinstance(key, str) else None
            if name is None:
                names = set(known.values())
                raise PolicyError(
                    f"unknown key {shown(key)}",
                    place=self.document.place(*here),
                    remedy=did_you_mean(str(key), names),
                )
            if name in found:
                raise PolicyError(
                    f"{shown(key)} is given twice, in two spellings",
                    place=self.document.place(*here),
                    remedy="keep one",
                )
            found[name] = (value, here)
            if not isinstance(value, Mapping):
                self.given[".".join((*_keys(path), name))] = self.document.place(*here)
        return found

    def mapping(self, data: object, path: tuple[str | int, ...]) -> Mapping[Any, Any]:
        if not isinstance(data, Mapping):
            raise PolicyError(f"this must be a mapping, found {shown(data)}", place=self.document.place(*path))
        return data

    @contextmanager
    def at(self, *path: str | int) -> Iterator[None]:
        """Give the place of `path` to the errors raised beneath that have none."""
        try:
            yield
        except PolicyError as error:
            place = self.document.place(*path)
            if error.place.startswith(self.document.source):
                raise
            raise PolicyError(error.reason, place=place, remedy=error.remedy) from None

    def flag(self, value: object, path: tuple[str | int, ...]) -> bool:
        if not isinstance(value, bool):
            raise PolicyError(
                f"{shown(value)} is neither true nor false",
                place=self.document.place(*path),
                remedy="write true or false",
            )
        return value

    def text(self, value: object, path: tuple[str | int, ...]) -> str:
        if not isinstance(value, str) or not value.strip():
            raise PolicyError(f"{shown(value)} is not a text", place=self.document.place(*path))
        return value

    def choice(self, known: tuple[str, ...]) -> Callable[[object, tuple[str | int, ...]], str]:
        def chosen(value: object, path: tuple[str | int, ...]) -> str:
            text = self.text(value, path)
            if text not in known:
                raise PolicyError(
                    f"unknown value {shown(text)}", place=self.document.place(*path), remedy=did_you_mean(text, known)
                )
            return text

        return chosen

    def size(self, value: Any, path: tuple[str | int, ...]) -> int:
        with self.at(*path):
            size = bytes_of(value, name=str(path[-1]))
            if isinstance(size, Unlimited):
                raise PolicyError("the size of an input cannot be unlimited", remedy='write "1MiB"')
            return size

    def path(self, value: object, path: tuple[str | int, ...]) -> str:
        """A path of the file's, as a grant of files would read it."""
        with self.at(*path):
            scope = Grant.parse(f"file_system:write:{self.text(value, path)}", base=self.base, home=self.home).scope
            return str(scope).removeprefix("write:")

    def entries(self, value: object, path: tuple[str | int, ...], read: Callable[[str], _T]) -> tuple[_T, ...]:
        """Each text of a list, read; the places are those of the entries."""
        if not isinstance(value, list):
            raise PolicyError(
                f"this must be a list, found {shown(value)}",
                place=self.document.place(*path),
                remedy=f"write [{value}]",
            )
        found = []
        for position, entry in enumerate(value):
            with self.at(*path, position):
                found.append(read(self.text(entry, (*path, position))))
        return tuple(found)

    def grants(self, value: object, path: tuple[str | int, ...]) -> tuple[Grant, ...]:
        return self.entries(value, path, lambda text: Grant.parse(text, base=self.base, home=self.home))


def read(document: Document, *, base: PurePath | None = None, home: str | None = None) -> PolicyFile:
    """A policy from its document.

    Args:
        document: what was parsed.
        base: the folder that relative paths in it start from (the file's own), or None to refuse them.
        home: what `~` stands for in it, or None to refuse it.

    Raises:
        PolicyError: anything that is not known, cannot be meant, or would be without effect, with its place.
    """
    reader = _Reader(document, base, home)
    names = ("version", "permissions", "validation", "rate_limiting", "monitoring", "audit", "agents")
    keys = reader.section(document.data, (), {name: name for name in names})
    version, where = keys.get("version", (1, ("version",)))
    if type(version) is not int or version != 1:
        raise PolicyError(
            f"version {shown(version)} is not known",
            place=document.place(*where),
            remedy="this remit reads `version: 1`",
        )
    permissions = _permissions(reader, *keys.get("permissions", (None, ("permissions",))))
    agents = None
    if "agents" in keys:
        value, path = keys["agents"]
        agents = _agents(reader, value, path)
    return PolicyFile(
        source=document.source,
        permissions=permissions,
        validation=_validation(reader, *keys.get("validation", (None, ("validation",)))),
        rate_limiting=_rate_limiting(reader, *keys.get("rate_limiting", (None, ("rate_limiting",)))),
        monitoring=_monitoring(reader, *keys.get("monitoring", (None, ("monitoring",)))),
        audit=_audit(reader, *keys.get("audit", (None, ("audit",)))),
        agents=agents,
        given=reader.given,
    )


def _keys(path: tuple[str | int, ...]) -> Iterator[str]:
    """The keys of a path in snake_case; the names of agents stay as they are."""
    for depth, part in enumerate(path):
        yield str(part) if depth == 1 and path[0] == "agents" else snake(str(part))


def _same(*names: str, **aliases: str) -> dict[str, str]:
    return {**{name: name for name in names}, **aliases}


def _permissions(reader: _Reader, data: object, path: tuple[str | int, ...]) -> PermissionsSection:
    keys = reader.section(data, path, _same("enabled", "default", "restricted", "i_accept_no_enforcement"))
    values: dict[str, Any] = {}
    for name, (value, here) in keys.items():
        if name == "enabled":
            values[name] = reader.flag(value, here)
        elif name == "default":
            values[name] = reader.grants(value, here)
        elif name == "restricted":
            values[name] = reader.entries(value, here, Permission.parse)
        else:
            values[name] = reader.text(value, here)
    section = PermissionsSection(**values)
    for grant in section.default:
        if grant.permission in section.restricted:
            raise PolicyError(
                f"`{grant}` is restricted, and cannot be had by default",
                place=reader.document.place(*path, "default"),
                remedy="give it to the agents that need it, by name and with a scope",
            )
    _accepted(reader, path, section.enabled, "enabled", "i_accept_no_enforcement", section.i_accept_no_enforcement)
    return section


def _accepted(
    reader: _Reader, path: tuple[str | int, ...], on: bool, switch: str, acceptance: str, reason: str | None
) -> None:
    """A switch that takes protection away needs its acceptance spelled out; the acceptance alone has no effect."""
    if not on and reason is None:
        raise PolicyError(
            f"`{switch}: false` takes protection away",
            place=reader.document.place(*path, switch),
            remedy=f'if it is meant, add `{acceptance}: "<the reason>"`; it is recorded',
        )
    if on and reason is not None:
        raise PolicyError(
            f"`{acceptance}` is without effect unless `{switch}` is false",
            place=reader.document.place(*path, acceptance),
            remedy="take it out",
        )


def _validation(reader: _Reader, data: object, path: tuple[str | int, ...]) -> ValidationSection:
    values: dict[str, Any] = {}
    for name, (value, here) in reader.section(data, path, _same("enabled", "max_size", "allowed_types")).items():
        if name == "enabled":
            values[name] = reader.flag(value, here)
        elif name == "max_size":
            values[name] = reader.size(value, here)
        else:
            values[name] = reader.entries(value, here, _leaf_type)
    return ValidationSection(**values)


def _leaf_type(text: str) -> str:
    if text not in LEAF_TYPES:
        raise PolicyError(f"unknown type {shown(text)}", remedy=did_you_mean(text, LEAF_TYPES))
    return text


def _rate_limiting(reader: _Reader, data: object, path: tuple[str | int, ...]) -> RateLimitingSection:
    known = _same("enabled", "messages", "functions", "default", "default_limit", "default_window")
    keys = reader.section(data, path, {**known, "default_window_ms": "default_window"})
    enabled = True
    rates: dict[str, Any] = {}
    for name, (value, here) in keys.items():
        if name == "enabled":
            enabled = reader.flag(value, here)
        elif not name.startswith("default_"):
            with reader.at(*here):
                rates[name] = RateLimit.parse(value)
    pair = {name: keys[name] for name in ("default_limit", "default_window") if name in keys}
    if pair:
        first_path = next(iter(pair.values()))[1]
        with reader.at(*first_path):
            if "default" in rates:
                raise PolicyError("the default rate is given twice", remedy="keep `default`, or the two")
            if len(pair) == 1:
                raise PolicyError(
                    "`default_limit` and `default_window` belong together", remedy='write default: "100/1m"'
                )
            rates["default"] = RateLimit.of(pair["default_limit"][0], pair["default_window"][0])
    return RateLimitingSection(enabled=enabled, limits=RateLimits(**rates))


def _monitoring(reader: _Reader, data: object, path: tuple[str | int, ...]) -> MonitoringSection:
    known = _same("enabled", "level", "audit_trail", "i_accept_no_audit", log_level="level")
    values: dict[str, Any] = {}
    for name, (value, here) in reader.section(data, path, known).items():
        if name in ("enabled", "audit_trail"):
            values[name] = reader.flag(value, here)
        elif name == "level":
            values[name] = reader.choice(LEVELS)(value, here)
        else:
            values[name] = reader.text(value, here)
    section = MonitoringSection(**values)
    _accepted(reader, path, section.audit_trail, "audit_trail", "i_accept_no_audit", section.i_accept_no_audit)
    return section


def _audit(reader: _Reader, data: object, path: tuple[str | int, ...]) -> AuditSection:
    values: dict[str, Any] = {}
    for name, (value, here) in reader.section(data, path, _same("path", "anchor", "fsync")).items():
        values[name] = reader.choice(FSYNC)(value, here) if name == "fsync" else reader.path(value, here)
    return AuditSection(**values)


def _agents(reader: _Reader, data: object, path: tuple[str | int, ...]) -> dict[str, AgentEntry]:
    found = {}
    for name, value in reader.mapping({} if data is None else data, path).items():
        with reader.at(*path, name):
            Principal(name)
        found[name] = _agent(reader, name, value, (*path, name))
    return found


def _agent(reader: _Reader, name: str, data: object, path: tuple[str | int, ...]) -> AgentEntry:
    values: dict[str, Any] = {}
    readers = {"constraints": Constraints, "limits": Limits, "rate_limits": RateLimits}
    for key, (value, here) in reader.section(data, path, _same("permissions", "deny", *readers)).items():
        if key in readers:
            values[key] = _quantities(reader, readers[key], value, here)
        else:
            values[key] = reader.grants(value, here)
    return AgentEntry(name=name, place=reader.document.place(*path), **values)


def _quantities(reader: _Reader, kind: Any, data: object, path: tuple[str | int, ...]) -> Any:
    """Limits, Constraints or RateLimits, each key read on its own so that an error has the place of its key."""
    found = kind()
    for key, value in reader.mapping(data, path).items():
        with reader.at(*path, key):
            more = kind.from_mapping({key: value})
            if more.given & found.given:
                raise PolicyError(f"{shown(key)} is given twice, in two spellings", remedy="keep one")
            found = found.within(more, place="", ceiling_place="")  # no field is given by both: this joins them
    return found
