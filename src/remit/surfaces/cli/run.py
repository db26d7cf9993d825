"""`remit run`: one function of a file, or one program, in a jail."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import os
import re
import shlex
import signal
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import click

from remit.agent.holding import Declared, Holding
from remit.errors import Denied, FunctionRaised, PolicyError, RemitError, ValidationFailed
from remit.model.call import Outcome
from remit.model.grants import GrantSet
from remit.model.limits import Constraints, Limits
from remit.model.permission import FileScope, Permission
from remit.model.security import Security
from remit.model.spelling import did_you_mean, shown
from remit.model.units import Unlimited
from remit.policy.paths import PROGRAM_FOLDERS
from remit.runtime import Runtime
from remit.shipping import from_file, functions_of_file
from remit.surfaces.cli import exits
from remit.surfaces.cli.report import Report, jsonable
from remit.surfaces.cli.stdio import Stdio, pass_on
from remit.surfaces.cli.text import visible
from remit.validation import FunctionSchema

__all__ = ["run"]

PRINCIPAL: Final = "remit run"
"""Who acts, on the audit trail and in a policy file's `agents`."""

_PROGRAM: Final = "remit.program"
_SIGNALS: Final = ("SIGINT", "SIGTERM", "SIGHUP")
_EXEC: Final = {  # by errno of execve(2)
    errno.ENOENT: "is the interpreter that its first line names there?",
    errno.EACCES: "is the interpreter that its first line names allowed?",
    errno.ENOEXEC: "it is neither a program of this machine nor a script that begins with `#!`",
}
_LIMITS: Final = tuple(name for name, _ in Limits().items())


class _Ended(Exception):
    """There is nothing more to do: `report` says why, `status` is the exit status."""

    def __init__(self, report: Report, status: int) -> None:
        super().__init__(report.reason)
        self.report = report
        self.status = status


class _Run(click.Command):
    """What follows `--` is a program and its arguments, untouched."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if "--" in args:
            at = args.index("--")
            ctx.meta[_PROGRAM] = args[at + 1 :]
            args = args[:at]
        return super().parse_args(ctx, args)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Request:
    """What the options say."""

    allow: tuple[str, ...]
    deny: tuple[str, ...]
    limits: Limits
    constraints: Constraints
    policy: str | None
    require: tuple[str, ...]
    accept_without: tuple[str, ...]
    as_json: bool

    def holding(self, *more: str) -> Holding:
        """The authority of this run, `more` grants beside those allowed. Raises PolicyError where it cannot hold."""
        security = Security(
            permissions=self.permissions(*more),
            deny=self.deny,
            constraints=self.constraints,
            require=self.require,
            accept_without=self.accept_without,
        )
        return Holding(PRINCIPAL, security, self.limits)

    def permissions(self, *more: str) -> tuple[str, ...]:
        return tuple(dict.fromkeys(("basic_execution", *self.allow, *more)))


@click.command(
    cls=_Run,
    short_help="Run one function of a file, or a program, in a jail.",
    options_metavar="[OPTIONS]",
)
@click.option("--allow", metavar="GRANT", multiple=True, help="What it may do, such as `file_system:read:data`.")
@click.option("--deny", metavar="GRANT", multiple=True, help="What it may not do, whatever else allows it.")
@click.option("--limit", metavar="NAME=VALUE", multiple=True, help=f"timeout, {', '.join(_LIMITS)}.")
@click.option("--timeout", metavar="TIME", help="The same as `--limit timeout=TIME`, such as `5s`.")
@click.option(
    "--policy", metavar="FILE", help="The policy file that is the ceiling; else remit.yaml, where there is one."
)
@click.option("--require", metavar="GUARANTEE", multiple=True, help="Refuse to run where this is not held.")
@click.option("--accept-without", metavar="GUARANTEE", multiple=True, help="Run where this is not held; recorded.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object that says all about how it ended.")
@click.argument("words", nargs=-1, metavar="FILE.py:FUNCTION [ARG=VALUE]... | -- PROGRAM [ARGS]...")
@click.pass_context
def run(
    context: click.Context,
    allow: tuple[str, ...],
    deny: tuple[str, ...],
    limit: tuple[str, ...],
    timeout: str | None,
    policy: str | None,
    require: tuple[str, ...],
    accept_without: tuple[str, ...],
    as_json: bool,
    words: tuple[str, ...],
) -> None:
    """Run one function of FILE.py in a jail and print what it returns: text as it is, other values as JSON.

    The file is never imported here, only in the jail. Without `--allow` a call may compute, and nothing else: no file,
    no network, no other program, an empty environment. Its limits are remit's defaults (256MiB, 1s of CPU, 5s, ...).

    Behind `--` any PROGRAM runs in a jail, and may execute itself without being allowed to. It starts in the current
    folder where a grant reaches that, else in `/`, with PATH, HOME and LANG and nothing of your environment, and gets
    pipes or a pseudo-terminal of its own, never your terminal. As it may be a server, its `timeout` and `cpu` are
    unlimited unless you set them; the other limits are the defaults. One that starts processes needs
    `--limit processes=N` beside the grants for what it starts.

    \b
      remit run tools.py:word_count text="a b c"
      remit run --allow file_system:read:data tools.py:report folder=data
      remit run --allow file_system:read:server.py -- python3 server.py

    Exit status: 0 returned, 1 raised, 2 usage or policy (or a result that cannot be handed over), 124 time limit,
    125 denied or no sandbox, 126 not executable, 127 not found, 137 killed or another limit, 128+n signal n, else the
    program's own.
    """
    program: list[str] | None = context.meta.get(_PROGRAM)
    if program is not None and words:
        raise click.UsageError(f"`{words[0]}` and `-- {shlex.join(program)}`: one function or one program, not both")
    if not words and not program:
        raise click.UsageError("name a function (`FILE.py:FUNCTION`), or a program behind `--`")
    try:
        limits, constraints = _limits(limit, timeout)
        request = _Request(
            allow=allow,
            deny=deny,
            limits=limits,
            constraints=constraints,
            policy=policy,
            require=require,
            accept_without=accept_without,
            as_json=as_json,
        )
        status = _run_program(request, program) if program else _run_function(request, words)
    except _Ended as ended:
        if as_json:
            ended.report.write()
        elif ended.report.reason:
            report = ended.report
            click.echo(exits.message(report.reason, place=report.place, remedy=report.remedy), err=True)
        status = ended.status
    except RemitError as error:
        if as_json:
            Report.of_error(error).write()
            status = exits.of_error(error)
        else:
            pass_on(str(getattr(error, "traceback", "")).encode(), 2)
            status = exits.complain(error)
    context.exit(status)


def _limits(texts: Sequence[str], timeout: str | None) -> tuple[Limits, Constraints]:
    """What `--limit NAME=VALUE` and `--timeout` say.

    Raises:
        PolicyError: a name that is not one, a value that cannot be meant, or one limit twice.
    """
    given: dict[str, str] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        place = f"--limit {text}"
        if not equals:
            raise PolicyError("a limit is NAME=VALUE", place=place, remedy="such as `memory=512MiB`")
        if name not in (*_LIMITS, "timeout"):
            remedy = did_you_mean(name, (*_LIMITS, "timeout"))
            raise PolicyError(f"unknown limit {shown(name)}", place=place, remedy=remedy)
        if name in given:
            raise PolicyError(f"`{name}` is given twice", place=place, remedy="give it once")
        given[name] = value
    if timeout is not None:
        if "timeout" in given:
            raise PolicyError("`timeout` is given twice", place="--timeout", remedy="give it once")
        given["timeout"] = timeout
    length = given.pop("timeout", None)
    try:
        constraints = Constraints() if length is None else Constraints(timeout=length)
    except PolicyError as error:
        raise PolicyError(error.reason, place="--timeout", remedy=error.remedy) from None
    return Limits.from_mapping(given, where="--limit"), constraints


# --- a function


def _run_function(request: _Request, words: Sequence[str]) -> int:
    path, colon, attribute = words[0].rpartition(":")
    if not colon or not attribute:
        raise _no_function(words[0].removesuffix(":"))
    if not all(part.isidentifier() for part in attribute.split(".")):
        raise PolicyError(f"{shown(attribute)} is not the name of a function", place=words[0])
    given = _pairs(words[1:])
    outcome = _with_runtime(request, lambda: _call(request, path, attribute, given))
    return _show(request, outcome)


def _no_function(path: str) -> PolicyError:
    """What to say of `remit run FILE.py`, or of something that is no file."""
    if not path.endswith(".py"):
        return PolicyError(
            f"{shown(path)} is not FILE.py:FUNCTION", remedy=f"to run a program write `remit run -- {path}`"
        )
    names = functions_of_file(path)
    remedy = f"write `{path}:{names[0]}`" if names else f"write `{path}:FUNCTION`"
    return PolicyError(f"{shown(path)} is named without a function{_among(names)}", remedy=remedy)


def _among(names: Sequence[str]) -> str:
    return f"; it has {', '.join(f'`{name}`' for name in names[:20])}" if names else ""


def _pairs(words: Sequence[str]) -> dict[str, str]:
    given: dict[str, str] = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not equals or not name.isidentifier():
            raise ValidationFailed(
                f"{shown(word)} is not ARG=VALUE", path="args", remedy="name each argument: `text=hello`"
            )
        if name in given:
            raise ValidationFailed(f"`{name}` is given twice", path="args", remedy="give it once")
        given[name] = value
    return given


async def _call(request: _Request, path: str, attribute: str, given: Mapping[str, str]) -> Outcome:
    shipped = from_file(path, attribute)
    holding = request.holding()
    declared = Declared(name=attribute, permissions=request.permissions())
    try:
        described = await holding.describe(declared, shipped)
    except FunctionRaised as error:
        if _is_missing(error, attribute):
            names = functions_of_file(path)
            remedy = did_you_mean(attribute, names) if names else "name a function that stands in it"
            raise PolicyError(f"{shown(path)} has no function {shown(attribute)}", remedy=remedy) from None
        if error.type_name == "TypeError" and error.message.endswith("is not a callable object"):
            reason = f"{shown(attribute)} of {shown(path)} is not a function{_among(functions_of_file(path))}"
            raise PolicyError(reason, remedy="name a function") from None
        raise
    schema = FunctionSchema.from_description({**described, "name": attribute})
    declared = replace(declared, description=str(described.get("doc", "")))
    holding.add_shipped(declared, schema, shipped)
    try:
        values = {name: schema.parse_text(name, text) for name, text in given.items()}
        return await holding.outcome(attribute, (), values)
    except ValidationFailed as error:
        called = f"it is called as `{_signature(attribute, described)}`"
        first = error.remedy if "called as" not in error.remedy else ""
        remedy = f"{first}{'' if first.endswith('?') else ';'} {called}" if first else called
        raise ValidationFailed(error.reason, path=error.path, remedy=remedy, event_id=error.event_id) from None


def _is_missing(error: FunctionRaised, attribute: str) -> bool:
    """Whether the import failed for want of the function. The text is a stranger's: it only picks a message."""
    last = attribute.rpartition(".")[2]
    return error.type_name == "AttributeError" and any(
        re.search(rf"has no attribute '{re.escape(part)}'$", error.message) for part in {*attribute.split("."), last}
    )


def _signature(name: str, described: Mapping[str, Any]) -> str:
    """`word_count(text: str, least: int = ...)`, from the description that `FunctionSchema` has checked."""
    marks = {"var_positional": "*", "var_keyword": "**"}
    parts: list[str] = []
    for parameter in described.get("parameters", ()):
        kind = parameter.get("kind", "")
        if kind == "keyword_only" and not any(part.startswith("*") for part in parts):
            parts.append("*")
        text = f"{marks.get(kind, '')}{parameter['name']}"
        if parameter.get("annotation"):
            text += f": {parameter['annotation']}"
        if not parameter.get("required", True) and kind not in marks:
            text += " = ..." if parameter.get("annotation") else "=..."
        parts.append(text)
    return f"{name}({', '.join(parts)})"


# --- a program


def _run_program(request: _Request, words: Sequence[str]) -> int:
    path = _find(words[0])
    stdio: list[Stdio] = []
    try:
        outcome = _with_runtime(request, lambda: _execute(request, path, words, stdio))
    finally:
        kept = [one.finish() for one in stdio]
    if kept and request.as_json:
        outcome = replace(outcome, stdout=kept[0][0], stderr=kept[0][1])
    return _show(request, outcome)


def _find(name: str) -> str:
    """The program's resolved path. The name alone is looked for where the policy does, not on the user's PATH."""
    if "/" in name:
        found, where = name, name
    else:
        places = [f"{folder}/{name}" for folder in PROGRAM_FOLDERS]
        there = [place for place in places if os.path.isfile(place)]
        found = next((place for place in there if os.access(place, os.X_OK)), there[0] if there else "")
        where = f"{name}, looked for in {', '.join(PROGRAM_FOLDERS)}"
    path = os.path.realpath(found) if found else ""
    if not path or not os.path.exists(path):
        report = Report(
            status="not_found",
            reason=f"there is no program {shown(name)}",
            remedy=f"name one that is there: {where}" if "/" not in name else "name one that is there",
        )
        raise _Ended(report, exits.NOT_FOUND)
    if not os.path.isfile(path) or not os.access(path, os.X_OK):
        remedy = f"chmod +x {shlex.quote(found)}" if os.path.isfile(path) else "name a file"
        report = Report(status="not_executable", reason=f"{shown(name)} cannot be executed", remedy=remedy)
        raise _Ended(report, exits.NOT_EXECUTABLE)
    if any(letter in path for letter in "*?[]") or not path.isprintable():
        raise PolicyError(f"{shown(path)} cannot be granted by its name", remedy="rename it")
    return path


async def _execute(request: _Request, path: str, words: Sequence[str], stdio: list[Stdio]) -> Outcome:
    own = f"basic_execution:{path}"
    holding = request.holding(own)
    made = holding.add_program(path, request.permissions(own))
    bound = made.limits.output
    keep = (1 << 30 if isinstance(bound, Unlimited) else bound) if request.as_json else None
    stdio.append(Stdio(keep))
    arguments = {
        "program": path,
        "argv": list(words),
        "cwd": _folder(made.registered.grants),
        "environment": _environment(made.registered.grants, terminal=stdio[0].terminal),
    }
    return await holding.outcome(path, (), arguments, stdio=stdio[0].descriptors)


def _folder(grants: GrantSet) -> str:
    """The current folder, where a grant holds it, or something beneath it; else the root."""
    try:
        here = os.path.realpath(os.getcwd())
    except OSError:  # it was removed
        return "/"
    inside = here.rstrip("/") + "/"
    for grant in grants.of_kind(Permission.FILE_SYSTEM):
        path = grant.scope.path if isinstance(grant.scope, FileScope) else None
        if path is not None and (path.startswith(inside) or inside.startswith(path.rstrip("/") + "/")):
            return here
    return "/"


def _environment(grants: GrantSet, *, terminal: bool) -> dict[str, str]:
    """Of the host's there is nothing in it."""
    found = {"PATH": "/usr/local/bin:/usr/bin:/bin", "HOME": "/nonexistent", "LANG": "C.UTF-8"}
    scopes = [grant.scope for grant in grants.of_kind(Permission.FILE_SYSTEM)]
    if any(isinstance(scope, FileScope) and scope.path is None for scope in scopes):
        found |= {"HOME": "/tmp", "TMPDIR": "/tmp"}  # noqa: S108 - the private scratch is there
    if terminal:  # what it prints is made visible: colours would be read as text
        found |= {"TERM": "dumb", "NO_COLOR": "1"}
    return found


# --- both


def _with_runtime(request: _Request, work: Callable[[], Awaitable[Outcome]]) -> Outcome:
    """Do `work` in a runtime of its own; a signal ends the jail, and the outcome is recorded before we go."""
    caught: list[int] = []

    async def whole() -> Outcome:
        async with Runtime(request.policy, handle_signals=False) as runtime:
            with _signals(runtime, caught):
                return await work()

    outcome: Outcome | None = None
    try:
        outcome = asyncio.run(whole())
    except RemitError:
        if not caught:
            raise
    if outcome is None or caught:
        name = signal.Signals(caught[0]).name
        report = Report(status="killed") if outcome is None else Report.of_outcome(outcome)
        raise _Ended(replace(report, status="killed", what=name, reason=f"ended by {name}"), 128 + caught[0])
    return outcome


@contextlib.contextmanager
def _signals(runtime: Runtime, caught: list[int]) -> Iterator[None]:
    """While this lasts, the first signal that would end us ends the jails instead."""
    loop = asyncio.get_running_loop()

    def end(number: int) -> None:
        caught.append(number)
        if len(caught) == 1:
            loop.run_in_executor(None, runtime.end_jails)

    numbers = [getattr(signal, name) for name in _SIGNALS if hasattr(signal, name)]
    taken = [number for number in numbers if signal.getsignal(number) is not signal.SIG_IGN]  # as nohup leaves it
    for number in taken:
        loop.add_signal_handler(number, end, number)
    try:
        yield
    finally:
        for number in taken:
            loop.remove_signal_handler(number)


def _show(request: _Request, outcome: Outcome) -> int:
    """Print how it ended; returns the exit status."""
    status = exits.of_outcome(outcome)
    reason, remedy = _told(outcome)
    if request.as_json:
        Report.of_outcome(outcome, reason=reason, remedy=remedy).write()
        return status
    pass_on(outcome.stdout, 1)
    pass_on(outcome.stderr, 2)
    if outcome.status == "returned" and outcome.exit_status is None:
        _print(outcome.value)
    if outcome.status == "raised":
        pass_on(outcome.traceback.encode(), 2)
    if reason:
        click.echo(exits.message(reason, remedy=remedy), err=True)
    if status:
        for line in _refused(outcome):
            click.echo(line, err=True)
    return status


def _told(outcome: Outcome) -> tuple[str, str]:
    """What there is to say of an ending, and what would change it, in the words of the command line."""
    error = outcome.error()
    if error is None:
        return "", ""
    if outcome.status == "raised" and outcome.what == "exec":
        return f"{shown(outcome.function)} cannot be executed: {outcome.message}", _EXEC.get(outcome.used or 0, "")
    if outcome.status == "raised" and outcome.what in ("NotPlain", "ValidationFailed"):
        reason = f"what `{outcome.function}` returned cannot be handed over: {outcome.message}"
        return reason, "return text, numbers, booleans, bytes, lists and dicts with text as keys"
    remedy = exits.remedy_of(error)
    if isinstance(error, Denied) and ":" in outcome.what:
        remedy = f"to allow it: --allow {shlex.quote(outcome.what)}"
    elif isinstance(error, Denied) and outcome.what.startswith("limit "):
        remedy = "to allow it: --limit processes=2, and grant what it starts"
    elif outcome.status == "limit":
        remedy = f"to raise it: --limit {outcome.what}=VALUE" if outcome.what in (*_LIMITS, "timeout") else ""
    return error.reason, remedy


def _refused(outcome: Outcome) -> Iterator[str]:
    """What was tried and refused, each once, with how often.

    Not the name service's cache, which the C library asks for at every turn (nscd(8)) and does well without.
    """
    counts: dict[tuple[str, str], int] = {}
    for refusal in outcome.refusals:
        if refusal.seen_by == "kernel" and (refusal.what, refusal.resource) != ("socket", "AF_UNIX SOCK_STREAM"):
            counts[refusal.what, refusal.resource] = counts.get((refusal.what, refusal.resource), 0) + 1
    for (what, resource), count in list(counts.items())[:20]:
        often = f" ({count} times)" if count > 1 else ""
        yield f"  refused: {visible(what)} {visible(resource)}".rstrip() + often


def _print(value: Any) -> None:
    """What a function returned: text as it is, bytes as they are, nothing for None, the rest as JSON."""
    if value is None:
        return
    if isinstance(value, bytes):
        pass_on(value, 1)
        return
    text = value if isinstance(value, str) else _json(value)
    pass_on(text.encode("utf-8", "backslashreplace") + b"\n", 1)


def _json(value: Any) -> str:
    """JSON in which every character that does not print is escaped, so that it stays JSON on a terminal too."""
    text = json.dumps(jsonable(value), ensure_ascii=False, allow_nan=False)
    if text.isprintable():
        return text
    return "".join(letter if letter.isprintable() else json.dumps(letter)[1:-1] for letter in text)
