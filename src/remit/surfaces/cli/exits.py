"""How a command ends: the exit status, and the one message that says why.

======= ================================================================================================================
0       it returned
1       it raised; for `doctor` and `audit`: something is wrong
2       usage or policy; a trail that cannot be written; a result that cannot be handed over (too big, not plain data)
124     the time limit: `timeout` or `cpu`, of the call or of its import
125     denied, or no sandbox that holds what the call needs
126     not executable
127     not found
128 + n interrupted by signal n, or crashed of it
137     killed, or another limit
======= ================================================================================================================

What is not in the table is a program's own exit status. `remit run --json` tells apart what the numbers do not.
"""

from __future__ import annotations

import errno
import signal
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

import click

from remit.errors import (
    AuditError,
    Crashed,
    Denied,
    FunctionRaised,
    Killed,
    LimitExceeded,
    PolicyError,
    RateLimited,
    RemitError,
    SandboxUnavailable,
    TimeLimit,
    ValidationFailed,
)
from remit.surfaces.cli.text import visible

if TYPE_CHECKING:  # `remit --help` needs no model
    from remit.model.call import Outcome

__all__ = ["complain", "message", "of_error", "of_outcome", "parts", "remedy_of", "status_of"]

RAISED: Final = 1
USAGE: Final = 2
TIME: Final = 124
REFUSED: Final = 125
NOT_EXECUTABLE: Final = 126
NOT_FOUND: Final = 127
KILLED: Final = 137

_LONGEST = 4000
_TIMES = ("timeout", "cpu", "import", "queue_timeout")
_UNUSABLE = ("NotPlain", "ValidationFailed")  # a result that cannot be handed over; the type of none that a user raises
_STATUSES: Final[tuple[tuple[type[RemitError], str], ...]] = (
    (Denied, "denied"),
    (RateLimited, "limit"),
    (ValidationFailed, "invalid"),
    (LimitExceeded, "limit"),
    (FunctionRaised, "raised"),
    (Killed, "killed"),
    (Crashed, "crashed"),
    (SandboxUnavailable, "unavailable"),
    (PolicyError, "policy"),
    (AuditError, "audit"),
)


def of_outcome(outcome: Outcome) -> int:
    """The exit status for how a call ended."""
    if outcome.status == "returned":
        return outcome.exit_status or 0
    if outcome.status == "raised":
        if outcome.what == "exec":
            return NOT_FOUND if outcome.used in (errno.ENOENT, errno.ENOTDIR) else NOT_EXECUTABLE
        return USAGE if outcome.what in _UNUSABLE else RAISED
    if outcome.status == "limit":
        if outcome.what in _TIMES:
            return TIME
        return USAGE if outcome.what == "result" else KILLED
    if outcome.status == "denied":
        return REFUSED
    return _of_signal(outcome.what) if outcome.status == "crashed" else KILLED


def of_error(error: RemitError) -> int:
    """The exit status for a call that did not run, or an import that failed."""
    if isinstance(error, TimeLimit) or (isinstance(error, LimitExceeded) and error.limit in _TIMES):
        return TIME
    if isinstance(error, (LimitExceeded, Killed)):
        return KILLED
    if isinstance(error, Crashed):
        return _of_signal(error.signal)
    if isinstance(error, (PolicyError, ValidationFailed, AuditError)):
        return USAGE
    return RAISED if isinstance(error, FunctionRaised) else REFUSED


def _of_signal(name: str) -> int:
    number = signal.Signals.__members__.get(name)
    return KILLED if number is None else 128 + number


def status_of(error: RemitError) -> str:
    """One word for `--json`: `denied`, `policy`, `unavailable`, ..."""
    return next((word for kind, word in _STATUSES if isinstance(error, kind)), "error")


def remedy_of(error: RemitError) -> str:
    """The remedy, in the words of the command line."""
    if not isinstance(error, SandboxUnavailable):
        return error.remedy
    name = error.guarantee
    accepted = error.remedy.replace(f'Security(accept_without=["{name}"])', f"`--accept-without {name}`")
    return accepted.replace(f"take `{name}` from the function's permissions", f"leave out `--allow {name}`")


def parts(error: RemitError) -> Mapping[str, str]:
    """An error's `place`, `reason` and `remedy`."""
    place = str(getattr(error, "place", "") or getattr(error, "path", ""))
    place = "" if f"`{place}`" in error.reason else place  # a file that the reason names already
    return {"place": place, "reason": error.reason, "remedy": remedy_of(error)}


def message(reason: str, *, place: str = "", remedy: str = "", more: str = "") -> str:
    """`remit: place: reason`, and beneath it `help: remedy`: each of one line, safe to print."""
    lines = [f"remit: {visible(f'{place}: ' if place else '')}{visible(reason, _LONGEST)}"]
    if more:
        lines.append(f"  {visible(more, _LONGEST)}")
    if remedy:
        lines.append(f"  help: {visible(remedy, _LONGEST)}")
    return "\n".join(lines)


def complain(error: RemitError, *, more: str = "") -> int:
    """Say on stderr what went wrong; returns the exit status."""
    click.echo(message(**parts(error), more=more), err=True)
    return of_error(error)
