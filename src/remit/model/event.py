"""SecurityEvent: one line of the audit trail, before it is written."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

__all__ = ["EventType", "Result", "SecurityEvent"]

Result = Literal["allowed", "denied"]


class EventType:
    """The types of event that remit itself records. A user's own events may have any other name."""

    STARTED = "started"
    STOPPED = "stopped"
    CONFIGURED = "configured"
    REGISTERED = "registered"
    CALL = "call"  # the intent, recorded before anything runs
    OUTCOME = "outcome"  # how the call ended
    VIOLATION = "violation"  # something was tried that no grant covers
    LIMIT_EXCEEDED = "limit_exceeded"
    RATE_LIMITED = "rate_limited"
    MESSAGE = "message"
    IMPORTED = "imported"  # a template imported a module
    KILLED = "killed"


@dataclass(frozen=True, slots=True, kw_only=True)
class SecurityEvent:
    """What happened, to whom, and what was decided.

    Attributes:
        type: one of `EventType`, or a name of the user's own (letters, digits, `_`, `.`, `-`; at most 64).
        principal: who acted, the last of the chain.
        action: what was asked for: a function's name, a permission, `socket`, `connect`, ...
        resource: upon what: a path, `host:port`, a program, ...; guest-chosen text is redacted before it comes here.
        result: `allowed` or `denied`. A call that was allowed and then stopped by a limit is an allowed `call` and
            a denied `limit_exceeded`.
        timestamp: integer milliseconds since the epoch; the recorder sets it when it is None.
        chain: the principals on whose behalf, outermost first.
        context: plain JSON data that explains; never secrets.
        call_id: joins the events of one call.
        policy_hash: SHA-256 (hex) of the policy that decided.
        arguments_digest: SHA-256 (hex) of the canonical arguments.
        enforced_by: `monitor`, `guest` (reported from inside a jail, not to be trusted), or the kernel mechanism:
            `seccomp`, `landlock`, `rlimit`, `timer`, `namespace`, ...
        usage: what was used: `wall_ms`, `cpu_ms`, `peak_memory`, ...
        id: unique; the recorder sets it when it is "".
    """

    type: str
    principal: str
    action: str
    result: Result
    resource: str = ""
    timestamp: int | None = None
    chain: tuple[str, ...] = ()
    context: Mapping[str, Any] = field(default_factory=dict)
    call_id: str | None = None
    policy_hash: str | None = None
    arguments_digest: str | None = None
    enforced_by: str = "monitor"
    usage: Mapping[str, Any] | None = None
    id: str = ""
