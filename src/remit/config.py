"""Configuration: the only reader of the environment and of policy files, to one frozen SecurityConfig.

Two rules. Authority (permissions, agents, limits, rates, validation, the switches) comes from the operator's file,
which is the ceiling: code may ask for less, and asking for more is an error that names both places. Environment
variables carry no authority. Everything else (where state and audit trail live, the log level) is settled by defaults <
file < environment (`REMIT_*`) < code.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from remit.errors import PolicyError
from remit.model.grants import GrantSet
from remit.model.limits import Constraints, Limits, RateLimits
from remit.model.permission import FileScope, Grant, Permission, access
from remit.model.security import Security
from remit.model.spelling import did_you_mean, shown
from remit.model.units import Bound, bytes_of
from remit.policy.decide import AgentPolicy, check_agent
from remit.policy.document import Document, load
from remit.policy.paths import resolve_all, resolve_deny
from remit.policy.sections import (
    FSYNC,
    LEVELS,
    AgentEntry,
    MonitoringSection,
    PermissionsSection,
    PolicyFile,
    RateLimitingSection,
    ValidationSection,
    read,
)

__all__ = [
    "AgentSettings",
    "AuditSettings",
    "SecurityConfig",
    "default_state_dir",
    "host_environment",
    "prepare_state_dir",
]

FILE_NAMES: Final = ("remit.yaml", "remit.yml", "remit.toml", "remit.json")
"""Looked for in the current folder when no file is named."""

_VARIABLES: Final[Mapping[str, str]] = {
    "REMIT_STATE_DIR": "state_dir",
    "REMIT_AUDIT_PATH": "audit.path",
    "REMIT_AUDIT_ANCHOR": "audit.anchor",
    "REMIT_AUDIT_FSYNC": "audit.fsync",
    "REMIT_LOG_LEVEL": "monitoring.level",
    "REMIT_MEMORY_BUDGET": "memory_budget",
}
# read elsewhere: the file itself, and those of the workshop (run.py)
_OTHER_VARIABLES: Final = frozenset({"REMIT_CONFIG", "REMIT_CI", "REMIT_VENV"})
_OVERRIDES: Final[Mapping[str, str]] = {
    "state_dir": "state_dir",
    "audit_path": "audit.path",
    "audit_anchor": "audit.anchor",
    "audit_fsync": "audit.fsync",
    "log_level": "monitoring.level",
    "memory_budget": "memory_budget",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditSettings:
    """Where the trail is, where its checkpoints go as well (or None), and `batch` or `all`."""

    path: Path
    anchor: Path | None = None
    fsync: str = "batch"


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentSettings:
    """What an agent runs with: what its code asks for, beneath what the file gives; paths resolved."""

    policy: AgentPolicy
    constraints: Constraints
    limits: Limits
    rate_limits: RateLimits
    require: tuple[str, ...] = ()
    accept_without: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class SecurityConfig:
    """The whole configuration, settled; made by `load` or `from_mapping`.

    Attributes:
        permissions, validation, rate_limiting, monitoring: the file's sections, with defaults.
        audit: where the trail is.
        state_dir: the folder of remit's own files; see `prepare_state_dir`.
        memory_budget: bytes over all live jails, `UNLIMITED`, or None for half of what the machine has.
        path: the policy file, or None.
        policy_hash: SHA-256 (hex) of the canonical JSON of all that is authority.
    """

    permissions: PermissionsSection
    validation: ValidationSection
    rate_limiting: RateLimitingSection
    monitoring: MonitoringSection
    audit: AuditSettings
    state_dir: Path
    policy_hash: str
    memory_budget: Bound | None = None
    path: Path | None = None
    _file: PolicyFile = field(repr=False, compare=False)
    _sources: Mapping[str, str] = field(repr=False, compare=False)
    _home: str | None = field(default=None, repr=False, compare=False)

    @classmethod
    def load(
        cls, path: Path | str | None = None, env: Mapping[str, str] | None = None, **overrides: Any
    ) -> SecurityConfig:
        """From a policy file, the environment and code.

        Args:
            path: the policy file. Without it `REMIT_CONFIG` names it, or it is `remit.yaml` (`.yml`, `.toml`, `.json`)
                in the current folder, where there is one.
            env: in place of the process's environment.
            overrides: settings that are not authority: `state_dir`, `audit_path`, `audit_anchor`, `audit_fsync`,
                `log_level`, `memory_budget`.

        Raises:
            PolicyError: anything wrong in any of them, with its place.
        """
        variables = dict(os.environ) if env is None else dict(env)
        found = _find_file(path, variables)
        if found is None:
            return cls._settle(PolicyFile(source="defaults"), None, variables, overrides)
        # resolved, so that the file's own place can be told apart from what agents may write to
        real = Path(os.path.realpath(found))
        file = read(load(found), base=real.parent, home=_home(variables))
        return cls._settle(file, real, variables, overrides)

    @classmethod
    def from_mapping(
        cls, mapping: Mapping[str, Any], env: Mapping[str, str] | None = None, **overrides: Any
    ) -> SecurityConfig:
        """From a plain mapping of a file's form, in snake_case or camelCase; no file is looked for.

        Raises:
            PolicyError: as `load`.
        """
        variables = dict(os.environ) if env is None else dict(env)
        file = read(Document(mapping, "configuration"), home=_home(variables))
        return cls._settle(file, None, variables, overrides)

    @classmethod
    def _settle(
        cls, file: PolicyFile, path: Path | None, env: Mapping[str, str], overrides: Mapping[str, Any]
    ) -> SecurityConfig:
        values, sources = _settings(file, env, overrides)
        state_dir = Path(values["state_dir"]) if values["state_dir"] else default_state_dir(env)
        sources.setdefault("state_dir", "default")
        monitoring = MonitoringSection(
            enabled=file.monitoring.enabled,
            level=values["monitoring.level"],
            audit_trail=file.monitoring.audit_trail,
            i_accept_no_audit=file.monitoring.i_accept_no_audit,
        )
        anchor = values["audit.anchor"]
        audit = AuditSettings(
            path=Path(values["audit.path"]) if values["audit.path"] else state_dir / "audit.db",
            anchor=Path(anchor) if anchor else None,
            fsync=values["audit.fsync"],
        )
        config = cls(
            permissions=file.permissions,
            validation=file.validation,
            rate_limiting=file.rate_limiting,
            monitoring=monitoring,
            audit=audit,
            state_dir=state_dir,
            policy_hash=_policy_hash(file),
            memory_budget=values["memory_budget"],
            path=path,
            _file=file,
            _sources=MappingProxyType(sources),
            _home=_home(env),
        )
        for name in file.agents or {}:
            config.agent(name)  # what the file gives must hold by itself
        return config

    def source(self, key: str) -> str:
        """Where a value came from: `default`, `remit.yaml:3:5`, `environment REMIT_STATE_DIR`, `code`."""
        return self._sources.get(key) or self._file.given.get(key, "default")

    def parse_grant(self, text: str, *, base: Path | None = None) -> Grant:
        """A grant of code's, with `~` as here and relative paths from `base`; not resolved.

        Raises:
            PolicyError: as `Grant.parse`.
        """
        return Grant.parse(text, base=base, home=self._home)

    def agent(
        self,
        name: str,
        *,
        security: Security | Mapping[str, Any] | None = None,
        limits: Limits | Mapping[str, Any] | None = None,
        rate_limits: RateLimits | Mapping[str, Any] | None = None,
        base: Path | None = None,
    ) -> AgentSettings:
        """What the agent `name` runs with, when its code declares this.

        Where the file has an `agents` section, an agent that it does not list gets the default permissions.

        Args:
            name: the agent's.
            security: what code declares of authority, or None for what the file gives.
            limits: likewise.
            rate_limits: likewise.
            base: the folder that relative paths in `security` start from; without it they are refused.

        Raises:
            PolicyError: code asks for more than the file gives (both places are named), a path is not there, a bare
                kind that needs a scope, or a write grant that reaches remit's own files.
        """
        wanted = Security.of(security)
        place = f"agent {shown(name)}"
        entry = self._entry(name)
        grants = self._grants(name, wanted, entry, place, base)
        policy = AgentPolicy(
            name=name, grants=grants, default=self.permissions.default, enforced=self.permissions.enabled
        )
        check_agent(policy, restricted=self.permissions.restricted, place=entry.place if entry else place)
        self._keep_own_files(policy, entry.place if entry and wanted.permissions is None else place)
        asked = limits if isinstance(limits, Limits) else Limits.from_mapping(limits or {})
        rates = rate_limits if isinstance(rate_limits, RateLimits) else RateLimits.from_mapping(rate_limits or {})
        constraints = wanted.constraints
        general = self.rate_limiting.limits
        if entry is not None:
            above = f"`{entry.place}`"
            asked = asked.within(entry.limits, place=f"{place} limits", ceiling_place=above)
            constraints = constraints.within(entry.constraints, place=f"{place} constraints", ceiling_place=above)
            rates = rates.within(entry.rate_limits, place=f"{place} rate_limits", ceiling_place=above)
            own = entry.rate_limits.given
            general = general.only(
                general.given - own
            )  # what the file says of this agent stands over what it says of all
        rates = rates.within(
            general, place=f"{place} rate_limits", ceiling_place=f"`rate_limiting` of {self._file.source}"
        )
        return AgentSettings(
            policy=policy,
            constraints=constraints,
            limits=asked,
            rate_limits=rates,
            require=wanted.require,
            accept_without=wanted.accept_without,
        )

    def _entry(self, name: str) -> AgentEntry | None:
        if self._file.agents is None:
            return None
        entry = self._file.agents.get(name)
        return entry or AgentEntry(name=name, place=f"{self._file.source} (it lists no agent {shown(name)})")

    def _grants(self, name: str, wanted: Security, entry: AgentEntry | None, place: str, base: Path | None) -> GrantSet:
        """What code asks for beneath what the file gives, resolved, with the denies of both."""
        deny = list(resolve_deny(self._parsed(wanted.deny, f"{place} deny", base)))
        own = None
        if wanted.permissions is not None:
            own = _resolved(self._parsed(wanted.permissions, f"{place} permissions", base), f"{place} permissions")
        if entry is None:
            return GrantSet(self.permissions.default if own is None else own, deny)
        deny += resolve_deny(entry.deny)
        ceiling = _resolved(self.permissions.default if entry.permissions is None else entry.permissions, entry.place)
        if own is None:
            return GrantSet(ceiling, deny)
        over = GrantSet(ceiling).exceeding(GrantSet(own))
        if over:
            raise PolicyError(
                f"the code of {shown(name)} asks for {', '.join(f'`{grant}`' for grant in over)}, more than "
                f"{entry.place} gives",
                place=f"{place} permissions",
                remedy="ask for less in the code, or have the file changed",
            )
        return GrantSet(own, deny)

    def _parsed(self, texts: Iterable[str], place: str, base: Path | None) -> tuple[Grant, ...]:
        found = []
        for position, text in enumerate(texts):
            try:
                found.append(self.parse_grant(text, base=base))
            except PolicyError as error:
                raise PolicyError(error.reason, place=f"{place}[{position}]", remedy=error.remedy) from None
        return tuple(found)

    def _keep_own_files(self, policy: AgentPolicy, place: str) -> None:
        """No agent may write to what holds it: the policy, the trail, its anchor, the keys and sockets beside them."""
        own = [path for path in (self.path, self.audit.path, self.audit.anchor) if path is not None]
        for path in own:
            real = os.path.realpath(path)
            if policy.grants.allows(access("file_system", {"path": real, "mode": "write"})):
                raise _reaches(policy.name, real, place)
        state = FileScope(os.path.realpath(self.state_dir), read=False, write=True)
        for grant in policy.grants:
            if isinstance(grant.scope, FileScope) and grant.scope.write and grant.scope.path is not None:
                beneath = state.reaches(grant.scope)
                above = grant.scope.reaches(state) and policy.grants.allows(Grant(Permission.FILE_SYSTEM, state))
                if beneath or above:
                    raise _reaches(policy.name, str(state.path), place)


def _resolved(grants: Iterable[Grant], place: str) -> tuple[Grant, ...]:
    try:
        return resolve_all(grants)
    except PolicyError as error:
        raise PolicyError(error.reason, place=place, remedy=error.remedy) from None


def _reaches(name: str, path: str, place: str) -> PolicyError:
    return PolicyError(
        f"a write grant of {shown(name)} reaches {shown(path)}, which holds it",
        place=place,
        remedy="grant a narrower folder, deny it, or keep the file elsewhere",
    )


def host_environment() -> dict[str, str]:
    """A copy of this process's environment: for what an `env` grant hands over, and what is a secret."""
    return dict(os.environ)


def default_state_dir(env: Mapping[str, str] | None = None) -> Path:
    """Where remit keeps its own files when nobody says: by the XDG Base Directory Specification, or in /tmp.

    `$REMIT_STATE_DIR`, else `$XDG_STATE_HOME/remit`, else `~/.local/state/remit`; where there is no home that can be
    written to, `/tmp/remit-UID`, which `prepare_state_dir` makes private or refuses.

    Raises:
        PolicyError: `REMIT_STATE_DIR` is not absolute.
    """
    variables = os.environ if env is None else env
    named = variables.get("REMIT_STATE_DIR")
    if named:
        return Path(_absolute(named, "environment REMIT_STATE_DIR"))
    state_home = variables.get("XDG_STATE_HOME", "")
    if state_home.startswith("/"):  # the specification: relative paths are to be ignored
        return Path(state_home) / "remit"
    home = _home(variables)
    if home is not None and os.path.isdir(home) and os.access(home, os.W_OK | os.X_OK):
        return Path(home) / ".local" / "state" / "remit"
    return Path("/tmp") / f"remit-{os.geteuid()}"  # noqa: S108 - prepare_state_dir refuses one that is not ours


def prepare_state_dir(path: Path) -> Path:
    """Make the folder, 0700, with the folders above it; check that it is ours alone.

    Raises:
        PolicyError: it is a symlink, somebody else's, or writable by others; or it cannot be made.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        try:
            path.mkdir(mode=0o700)
        except FileExistsError:
            pass
        status = os.lstat(path)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise PolicyError(
            f"the state folder {shown(path)} cannot be made: {reason}", remedy="set REMIT_STATE_DIR to one that can"
        ) from None
    if not stat.S_ISDIR(status.st_mode):
        raise PolicyError(f"the state folder {shown(path)} is not a folder", remedy="set REMIT_STATE_DIR to one")
    if status.st_uid != os.geteuid():
        raise PolicyError(
            f"the state folder {shown(path)} belongs to uid {status.st_uid}", remedy="set REMIT_STATE_DIR to your own"
        )
    if status.st_mode & 0o077:
        raise PolicyError(f"others may use the state folder {shown(path)}", remedy=f"chmod 700 {path}")
    return path


def _home(env: Mapping[str, str]) -> str | None:
    home = env.get("HOME", "")
    return home if home.startswith("/") else None


def _absolute(text: str, place: str) -> str:
    if not text.startswith("/") or "\0" in text:
        raise PolicyError(f"{shown(text)} is not an absolute path", place=place, remedy="write the whole path")
    return os.path.normpath(text)


def _find_file(path: Path | str | None, env: Mapping[str, str]) -> Path | None:
    if path is not None:
        return Path(path)
    if env.get("REMIT_CONFIG"):
        return Path(env["REMIT_CONFIG"])
    here = [Path(name) for name in FILE_NAMES if os.path.lexists(name)]
    if len(here) > 1:
        raise PolicyError(
            f"there are {' and '.join(f'`{name}`' for name in here)} in this folder", remedy="keep one, or name one"
        )
    return here[0] if here else None


def _settings(
    file: PolicyFile, env: Mapping[str, str], overrides: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, str]]:
    """The settings that are not authority, each with where it came from: defaults < file < environment < code."""
    values: dict[str, Any] = {
        "state_dir": None,
        "audit.path": file.audit.path,
        "audit.anchor": file.audit.anchor,
        "audit.fsync": file.audit.fsync,
        "monitoring.level": file.monitoring.level,
        "memory_budget": None,
    }
    sources = {key: file.given[key] for key in values if key in file.given}
    for variable, text in env.items():
        if not variable.startswith("REMIT_") or variable in _OTHER_VARIABLES:
            continue
        if variable not in _VARIABLES:
            raise PolicyError(
                f"unknown variable {shown(variable)}",
                place="environment",
                remedy=did_you_mean(variable, {*_VARIABLES, "REMIT_CONFIG"}),
            )
        if text:
            key = _VARIABLES[variable]
            values[key], sources[key] = _setting(key, text, f"environment {variable}"), f"environment {variable}"
    for name, value in overrides.items():
        if name not in _OVERRIDES:
            raise PolicyError(
                f"unknown setting {shown(name)}",
                place="code",
                remedy=did_you_mean(name, _OVERRIDES) + "; authority comes from the file and from agents",
            )
        if value is not None:
            key = _OVERRIDES[name]
            values[key], sources[key] = _setting(key, value, f"code {name}"), "code"
    return values, sources


def _setting(key: str, value: Any, place: str) -> Any:
    if key == "memory_budget":
        try:
            return bytes_of(value, name=key)
        except PolicyError as error:
            raise PolicyError(error.reason, place=place, remedy=error.remedy) from None
    choices = {"monitoring.level": LEVELS, "audit.fsync": FSYNC}.get(key)
    text = os.fspath(value) if isinstance(value, (str, os.PathLike)) else str(value)
    if choices is None:
        return _absolute(os.path.abspath(text) if place.startswith("code") else text, place)
    if text not in choices:
        raise PolicyError(f"unknown value {shown(text)}", place=place, remedy=did_you_mean(text, choices))
    return text


def _policy_hash(file: PolicyFile) -> str:
    """SHA-256 of the authority in canonical JSON (sorted keys, no spaces, ASCII): the same policy, the same hash."""
    agents = None
    if file.agents is not None:
        agents = {
            name: {
                "permissions": None if entry.permissions is None else GrantSet(entry.permissions).as_text(),
                "deny": sorted(map(str, entry.deny)),
                "constraints": entry.constraints.as_text(only_given=True),
                "limits": entry.limits.as_text(only_given=True),
                "rate_limits": entry.rate_limits.as_text(only_given=True),
            }
            for name, entry in file.agents.items()
        }
    authority = {
        "version": 1,
        "permissions": {
            "enabled": file.permissions.enabled,
            "default": GrantSet(file.permissions.default).as_text(),
            "restricted": sorted(file.permissions.restricted),
            "i_accept_no_enforcement": file.permissions.i_accept_no_enforcement,
        },
        "validation": {
            "enabled": file.validation.enabled,
            "max_size": file.validation.max_size,
            "allowed_types": sorted(file.validation.allowed_types),
        },
        "rate_limiting": {"enabled": file.rate_limiting.enabled, **file.rate_limiting.limits.as_text()},
        "monitoring": {
            "enabled": file.monitoring.enabled,
            "audit_trail": file.monitoring.audit_trail,
            "i_accept_no_audit": file.monitoring.i_accept_no_audit,
        },
        "agents": agents,
    }
    text = json.dumps(authority, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode("ascii")).hexdigest()
