"""A call on its way: each stage takes the stage before it, so a skipped stage does not type-check.

`ToolCall -> Admitted -> Validated -> Authorized -> Intended -> Outcome`. The reference monitor is the only one that
makes the later ones.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from remit.errors import (
    Crashed,
    Denied,
    FunctionRaised,
    Killed,
    LimitExceeded,
    MemoryLimit,
    RemitError,
    TimeLimit,
)
from remit.model.grants import GrantSet
from remit.model.limits import Usage
from remit.model.principal import SecurityContext

__all__ = ["Admitted", "Authorized", "Intended", "Outcome", "Refused", "Status", "ToolCall", "Validated"]

_REMEDIES = {
    "import": "import less, or move the function to a module of its own",
    "queue_timeout": "try again later, or raise `queue_timeout` or `pool_size`",
}

Status = Literal["returned", "raised", "limit", "denied", "killed", "crashed"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolCall:
    """What somebody asks for, before anything was checked.

    Attributes:
        id: unique; joins the call's events.
        function: the name that was asked for, whoever chose it.
        args, kwargs: the arguments as they came.
        context: who asks, on whose behalf, with what authority.
        timeout: milliseconds, to narrow the function's own; None to leave it.
    """

    id: str
    function: str
    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    context: SecurityContext
    timeout: int | None = None


@dataclass(frozen=True, slots=True)
class Admitted:
    """The rate limits let it in."""

    call: ToolCall


@dataclass(frozen=True, slots=True)
class Validated:
    """The arguments are bound, copied and checked: `arguments` is what the function will get, and nothing else is."""

    admitted: Admitted
    arguments: Mapping[str, Any]
    digest: str


@dataclass(frozen=True, slots=True)
class Authorized:
    """The policy allows it: `grants` is what the jail will be given, `rule` what decided."""

    validated: Validated
    grants: GrantSet
    rule: str


@dataclass(frozen=True, slots=True)
class Intended:
    """The intent stands on the audit trail: `event_id` names it, "" only where the trail is turned off by name."""

    authorized: Authorized
    event_id: str


@dataclass(frozen=True, slots=True)
class Refused:
    """One thing that the jail tried and was refused: what, upon what, and who saw it (`kernel` or `guest`)."""

    what: str
    resource: str
    seen_by: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How a call ended.

    Attributes:
        status: `returned`, `raised`, `limit` (which: `what`), `denied` (what), `killed` (by whom), `crashed` (of what).
        value: what the function returned; None unless `returned`.
        what: see `status`; for `raised` the exception's type.
        message, traceback: text of an exception.
        bound, used: of a limit, in its unit: milliseconds, bytes or a count.
        exit_status: of a program.
        stdout, stderr: what was written, capped.
        output_truncated: whether more was written than is kept.
        refusals: what was tried and refused.
        usage: what was used, by the kernel's accounting.
        tier: the mechanisms under which it ran, "" if it did not run in a jail.
        accepted: guarantees whose absence was accepted by name.
        call_id, function, principal: whose call it was.
        event_id: the outcome's event on the audit trail, or None.
    """

    status: Status
    value: Any = None
    what: str = ""
    message: str = ""
    traceback: str = ""
    bound: int | None = None
    used: int | None = None
    exit_status: int | None = None
    stdout: bytes = b""
    stderr: bytes = b""
    output_truncated: bool = False
    refusals: tuple[Refused, ...] = ()
    usage: Usage = field(default_factory=Usage)
    tier: str = ""
    accepted: tuple[str, ...] = ()
    call_id: str = ""
    function: str = ""
    principal: str = ""
    event_id: str | None = None

    @property
    def ok(self) -> bool:
        """Whether the function returned."""
        return self.status == "returned"

    def unwrap(self) -> Any:
        """The value.

        Raises:
            RemitError: what `error` returns, where the function did not return.
        """
        error = self.error()
        if error is not None:
            raise error
        return self.value

    def error(self) -> RemitError | None:
        """The error that this outcome is, or None if the function returned."""
        name, event_id = f"`{self.function}`", self.event_id
        if self.status == "returned":
            return None
        if self.status == "raised":
            text = f"{name} raised {self.what}" + (f": {self.message}" if self.message else "")
            return FunctionRaised(
                text, type_name=self.what, message=self.message, traceback=self.traceback, event_id=event_id
            )
        if self.status == "limit":
            return self._limit(name)
        if self.status == "denied":
            needs = self.what if ":" in self.what or self.what.startswith("limit ") else ""
            reason = f"{name} was refused" + (f": {self.message}" if self.message else f": {self.what}")
            remedy = f"needs {needs}" if needs else ""
            return Denied(reason, rule="no grant", remedy=remedy, stage="execute", event_id=event_id)
        if self.status == "killed":
            return Killed(f"{name} was killed: {self.what}", stage="execute", event_id=event_id)
        signal = self.what if self.what.startswith("SIG") else ""
        return Crashed(f"{name} crashed: {self.what}", signal=signal, event_id=event_id)

    def _limit(self, name: str) -> LimitExceeded:
        kind = {"timeout": TimeLimit, "cpu": TimeLimit, "memory": MemoryLimit}.get(self.what, LimitExceeded)
        bound = "" if self.bound is None else f" of {_shown(self.what, self.bound)}"
        return kind(
            f"{name} reached its limit `{self.what}`{bound}",
            limit=self.what,
            value=self.bound,
            used=self.used,
            remedy=_REMEDIES.get(self.what, f"raise `{self.what}` if it needs more"),
            event_id=self.event_id,
            retryable=self.what == "queue_timeout",
        )


def _shown(limit: str, value: int) -> str:
    if limit in ("timeout", "cpu", "import", "queue_timeout"):
        return f"{value} ms"
    if limit in ("memory", "result", "output", "file_size"):
        return f"{value} bytes"
    return str(value)
