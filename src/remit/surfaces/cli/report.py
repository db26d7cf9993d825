"""What `--json` prints of one call: one object, in ASCII, in which every ending can be told from every other."""

from __future__ import annotations

import json
from base64 import b64encode
from dataclasses import asdict, dataclass, field
from typing import Any, Self

import click

from remit.errors import RemitError
from remit.model.call import Outcome
from remit.surfaces.cli import exits

__all__ = ["Report", "jsonable"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """How a call ended, or why it did not begin.

    Attributes:
        status: of a call that ran: `returned`, `raised`, `limit`, `denied`, `killed`, `crashed`; of one that did not:
            `usage`, `policy`, `invalid` (an argument), `audit` (the trail takes no event), `unavailable` (no sandbox),
            `denied`, `not_found`, `not_executable`.
        value: what the function returned; bytes are `{"$base64": TEXT}`.
        what: which limit, what was denied, the type of what was raised, the signal.
        exit_status: the program's own, or None.
        place, reason, remedy: what there is to say of it.
        message, traceback: of what was raised.
        bound, used: of a limit, in milliseconds, bytes or a count.
        stdout, stderr: what was written, capped.
        refusals: what was tried and refused.
        usage: wall_ms, cpu_user_ms, cpu_system_ms, peak_memory, output_bytes, connections.
        tier: the mechanisms under which it ran.
        accepted_without: guarantees that were not held, by the user's leave.
        call_id, event_id: on the audit trail.
    """

    status: str
    value: Any = None
    what: str = ""
    exit_status: int | None = None
    place: str = ""
    reason: str = ""
    remedy: str = ""
    message: str = ""
    traceback: str = ""
    bound: int | None = None
    used: int | None = None
    stdout: str = ""
    stderr: str = ""
    refusals: list[dict[str, str]] = field(default_factory=list)
    usage: dict[str, float | int] = field(default_factory=dict)
    tier: str = ""
    accepted_without: list[str] = field(default_factory=list)
    call_id: str = ""
    event_id: str | None = None

    @classmethod
    def of_outcome(cls, outcome: Outcome, *, reason: str = "", remedy: str = "") -> Self:
        """Of a call that ran."""
        return cls(
            status=outcome.status,
            value=jsonable(outcome.value),
            what=outcome.what,
            exit_status=outcome.exit_status,
            reason=reason,
            remedy=remedy,
            message=outcome.message,
            traceback=outcome.traceback,
            bound=outcome.bound,
            used=outcome.used,
            stdout=outcome.stdout.decode("utf-8", "backslashreplace"),
            stderr=outcome.stderr.decode("utf-8", "backslashreplace"),
            refusals=[asdict(refusal) for refusal in outcome.refusals],
            usage=outcome.usage.as_dict(),
            tier=outcome.tier,
            accepted_without=list(outcome.accepted),
            call_id=outcome.call_id,
            event_id=outcome.event_id,
        )

    @classmethod
    def of_error(cls, error: RemitError) -> Self:
        """Of a call that did not run, or whose import failed."""
        named = ("limit", "type_name", "guarantee", "rule", "signal")
        what = next((value for name in named if (value := getattr(error, name, ""))), "")
        return cls(
            status=exits.status_of(error),
            what=str(what),
            message=str(getattr(error, "message", "")),
            traceback=str(getattr(error, "traceback", "")),
            event_id=error.event_id,
            place=str(getattr(error, "place", "") or getattr(error, "path", "")),
            reason=error.reason,
            remedy=exits.remedy_of(error),
        )

    def write(self) -> None:
        """Print it on stdout."""
        click.echo(json.dumps(asdict(self), allow_nan=False))


def jsonable(value: Any) -> Any:
    """Plain data of a result as JSON has it: bytes become `{"$base64": TEXT}`."""
    if isinstance(value, (bytes, bytearray)):
        return {"$base64": b64encode(value).decode("ascii")}
    if isinstance(value, list):
        return [jsonable(item) for item in value]
    if isinstance(value, dict):
        return {name: jsonable(item) for name, item in value.items()}
    return value
