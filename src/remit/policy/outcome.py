"""What a jail's ending means: Ending -> Outcome. Pure, as the way in is."""

from __future__ import annotations

from remit.errors import SandboxUnavailable
from remit.jail.spec import Code, Ending
from remit.jail.supervisor import Unfit
from remit.model.call import Outcome, Refused, ToolCall
from remit.model.limits import Usage

__all__ = ["enforced_by", "fit_for_an_event", "outcome_of", "short", "unfit"]


def outcome_of(call: ToolCall, ending: Ending, *, accepted: tuple[str, ...] = ()) -> Outcome:
    """How a call ended, in the host's words; `accepted`: guarantees without which it was let run."""
    used = ending.usage
    return Outcome(
        status=ending.status,
        value=ending.value,
        what=ending.what,
        message=ending.message,
        traceback=ending.traceback,
        bound=ending.bound,
        used=ending.used,
        exit_status=ending.exit_status,
        stdout=ending.stdout,
        stderr=ending.stderr,
        output_truncated=ending.output_truncated,
        refusals=tuple(Refused(r.what, r.resource, r.seen_by) for r in ending.refusals),
        usage=Usage(
            wall_ms=used.wall_ms,
            cpu_user_ms=used.cpu_user_ms,
            cpu_system_ms=used.cpu_system_ms,
            peak_memory=used.peak_memory,
            output_bytes=used.output_bytes,
        ),
        tier=ending.tier,
        accepted=accepted,
        call_id=call.id,
        function=call.function,
        principal=call.context.principal,
    )


def unfit(error: Unfit, name: str, code: Code) -> Ending:
    """What it means that a template could not be made.

    Raises:
        SandboxUnavailable: there was no jail, for a reason that is not the function's.
    """
    said = error.error
    gone, needs = str(said.get("gone", "")), str(said.get("needs", ""))
    if gone.startswith("import: "):
        return Ending("limit", what="import", message=f"importing took too long ({gone[8:]})")
    if gone or "wall" in said or "unfit" in said:
        raise SandboxUnavailable(
            f"no jail could be made for `{name}`: {short(str(error))}", remedy="see `remit doctor`"
        )
    module = code.module or name
    text = str(said.get("message", ""))
    if needs:
        hint = f'importing `{module}` needs {needs}; move `{name}` to its own module, or ship="value"'
        return Ending("denied", what=needs, message=hint, traceback=str(said.get("traceback", "")))
    return Ending(
        "raised",
        what=str(said.get("type", "ImportError")),
        message=f"importing `{module}` failed: {text}",
        traceback=str(said.get("traceback", "")),
    )


def enforced_by(outcome: Outcome) -> str:
    """Which mechanism ended it."""
    if outcome.status == "limit":
        by = {"timeout": "timer", "cpu": "timer", "memory": "rlimit", "import": "timer", "queue_timeout": "monitor"}
        return by.get(outcome.what, "supervisor")
    if outcome.status == "denied":
        return "seccomp" if any(refusal.seen_by == "kernel" for refusal in outcome.refusals) else "landlock"
    return "jail"


def fit_for_an_event(function: object) -> str:
    """A name that somebody else chose, fit for an event."""
    text = function if isinstance(function, str) else type(function).__name__
    return short("".join(letter if letter.isprintable() else "?" for letter in text), 128) or "?"


def short(text: str, limit: int = 500) -> str:
    """The text, cut to `limit` characters."""
    return text if len(text) <= limit else text[: limit - 3] + "..."
