"""One tree of errors.

::

    RemitError
    ├── Denied               also PermissionError   a rule, or the want of a grant, refused
    ├── RateLimited                                 too often; `retry_after` in seconds
    ├── ValidationFailed     also ValueError        the input is not what it must be
    ├── LimitExceeded                               a limit stopped the call
    │   ├── TimeLimit        also TimeoutError
    │   └── MemoryLimit      also MemoryError
    ├── FunctionRaised                              the function itself raised
    ├── Killed                                      somebody ended the jail
    ├── Crashed                                     the jail died of a signal that nobody sent on purpose
    ├── SandboxUnavailable                          this machine cannot hold a guarantee that the call needs
    ├── PolicyError                                 the declaration is wrong; nothing was run
    └── AuditError                                  the trail cannot take an event, so the call did not run

Each carries `reason` (what happened), `remedy` (what would change it), `event_id` (where it stands on the audit
trail, if it does) and `retryable`. Messages are lower case, quote the user's words in backticks, and put the help last.
"""

from __future__ import annotations

__all__ = [
    "AuditError",
    "Crashed",
    "Denied",
    "FunctionRaised",
    "Killed",
    "LimitExceeded",
    "MemoryLimit",
    "PolicyError",
    "RateLimited",
    "RemitError",
    "SandboxUnavailable",
    "TimeLimit",
    "ValidationFailed",
]


class RemitError(Exception):
    """The root of every error that remit raises on purpose.

    Attributes:
        reason: what happened, one sentence without a full stop.
        remedy: what would change it, or "".
        stage: the step of the pipeline that refused (`rate`, `validate`, `authorize`, `record`, `execute`, ...), or "".
        event_id: the id of the event on the audit trail, or None when nothing was recorded.
        retryable: whether the same call may succeed later without any change.
    """

    retryable = False

    def __init__(
        self,
        reason: str,
        *,
        remedy: str = "",
        stage: str = "",
        event_id: str | None = None,
        retryable: bool | None = None,
    ) -> None:
        super().__init__(reason)
        self.reason = reason
        self.remedy = remedy
        self.stage = stage
        self.event_id = event_id
        if retryable is not None:
            self.retryable = retryable

    def __str__(self) -> str:
        return f"{self.reason}; {self.remedy}" if self.remedy else self.reason


class Denied(RemitError, PermissionError):
    """A rule, or the want of a grant, refused the call. `rule` names what decided."""

    def __init__(
        self,
        reason: str,
        *,
        rule: str = "",
        remedy: str = "",
        stage: str = "",
        event_id: str | None = None,
        retryable: bool | None = None,
    ) -> None:
        super().__init__(reason, remedy=remedy, stage=stage, event_id=event_id, retryable=retryable)
        self.rule = rule


class RateLimited(RemitError):
    """Too many attempts in a window.

    Attributes:
        retry_after: float seconds until one attempt of the same weight would be admitted, if nothing else comes.
        limit, window_ms, remaining: the window that refused.
    """

    retryable = True

    def __init__(
        self,
        reason: str,
        *,
        retry_after: float,
        limit: int = 0,
        window_ms: int = 0,
        remaining: int = 0,
        remedy: str = "",
        stage: str = "rate",
        event_id: str | None = None,
    ) -> None:
        super().__init__(reason, remedy=remedy, stage=stage, event_id=event_id)
        self.retry_after = retry_after
        self.limit = limit
        self.window_ms = window_ms
        self.remaining = remaining


class ValidationFailed(RemitError, ValueError):
    """The input is not what it must be. `path` says where, such as `args.items[3].url`."""

    def __init__(
        self,
        reason: str,
        *,
        path: str = "",
        remedy: str = "",
        stage: str = "validate",
        event_id: str | None = None,
    ) -> None:
        super().__init__(reason, remedy=remedy, stage=stage, event_id=event_id)
        self.path = path

    def __str__(self) -> str:
        text = super().__str__()
        return f"{self.path}: {text}" if self.path else text


class LimitExceeded(RemitError):
    """A limit stopped the call. `limit` names it, `value` is the bound, `used` what was used (ms, bytes or a count)."""

    def __init__(
        self,
        reason: str,
        *,
        limit: str,
        value: int | None = None,
        used: int | None = None,
        remedy: str = "",
        stage: str = "execute",
        event_id: str | None = None,
        retryable: bool | None = None,
    ) -> None:
        super().__init__(reason, remedy=remedy, stage=stage, event_id=event_id, retryable=retryable)
        self.limit = limit
        self.value = value
        self.used = used


class TimeLimit(LimitExceeded, TimeoutError):
    """The deadline passed, or the CPU time was used up."""


class MemoryLimit(LimitExceeded, MemoryError):
    """The function asked for more memory than its limit."""


class FunctionRaised(RemitError):
    """The function itself raised. Only text came back: `type_name`, `message`, `traceback`."""

    def __init__(
        self,
        reason: str,
        *,
        type_name: str,
        message: str,
        traceback: str = "",
        remedy: str = "",
        stage: str = "execute",
        event_id: str | None = None,
    ) -> None:
        super().__init__(reason, remedy=remedy, stage=stage, event_id=event_id)
        self.type_name = type_name
        self.message = message
        self.traceback = traceback


class Killed(RemitError):
    """Somebody ended the jail: a person, the kill switch, a cancelled task, the end of the runtime."""


class Crashed(RemitError):
    """The jail died of a signal that nobody sent on purpose, or broke the channel. `signal` is its name, or ""."""

    retryable = True

    def __init__(
        self,
        reason: str,
        *,
        signal: str = "",
        remedy: str = "",
        stage: str = "execute",
        event_id: str | None = None,
    ) -> None:
        super().__init__(reason, remedy=remedy, stage=stage, event_id=event_id)
        self.signal = signal


class SandboxUnavailable(RemitError):
    """This machine, or this version, cannot hold a guarantee that the call needs. `guarantee` names it."""

    def __init__(
        self,
        reason: str,
        *,
        guarantee: str = "",
        remedy: str = "",
        stage: str = "execute",
        event_id: str | None = None,
    ) -> None:
        super().__init__(reason, remedy=remedy, stage=stage, event_id=event_id)
        self.guarantee = guarantee


class PolicyError(RemitError):
    """The declaration is wrong. `place` says where (`remit.yaml:12:5`, `agent-1.functions[0]`); nothing was run."""

    def __init__(self, reason: str, *, place: str = "", remedy: str = "", stage: str = "load") -> None:
        super().__init__(reason, remedy=remedy, stage=stage)
        self.place = place

    def __str__(self) -> str:
        text = super().__str__()
        return f"{self.place}: {text}" if self.place else text


class AuditError(RemitError):
    """The audit trail cannot take or show an event. `path` is the file, where there is one."""

    def __init__(self, reason: str, *, path: str = "", remedy: str = "", retryable: bool | None = None) -> None:
        super().__init__(reason, remedy=remedy, stage="record", retryable=retryable)
        self.path = path
