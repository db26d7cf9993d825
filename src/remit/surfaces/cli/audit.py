"""`remit audit`: look at the audit trail (`tail`) and check it (`verify`).

Exit status: 0 fine, 1 the trail has problems, 2 usage, or there is no trail to look at.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from remit.audit.keys import VerifierKey, read_public_key
from remit.audit.reader import Reader
from remit.audit.record import Record, decode
from remit.audit.verify import Report
from remit.audit.verify import verify as check
from remit.errors import AuditError
from remit.surfaces.cli.text import visible

__all__ = ["audit"]

_PROBLEMS = 1
_UNUSABLE = 2
_POLL_SECONDS = 0.2
_CHUNK = 1000


@click.group()
def audit() -> None:
    """Look at the audit trail, and check that nothing in it was changed."""


def _trail(command: Callable[..., None]) -> Callable[..., None]:
    """The two ways to name a trail: an argument or an option."""
    command = click.option("--trail", "option", type=click.Path(path_type=Path), help="The same as PATH.")(command)
    return click.argument("path", required=False, type=click.Path(path_type=Path))(command)


def _where(path: Path | None, option: Path | None) -> Path:
    if path is not None and option is not None and path != option:
        raise click.UsageError(f"`{path}` and `--trail {option}` are two trails: name one")
    named = path or option
    if named is not None:
        return named
    from remit.config import default_state_dir

    return default_state_dir() / "audit.db"


def _fail(context: click.Context, error: AuditError) -> None:
    click.echo(f"error: {visible(str(error), 2000)}", err=True)
    context.exit(_UNUSABLE)


@audit.command()
@_trail
@click.option(
    "--key",
    metavar="KEY",
    help="The public key that you trust: a verifier key (`NAME+HASH+BASE64`), or a file with one or with a PEM key. "
    "Default: the key file beside the trail, where you can read it.",
)
@click.option(
    "--anchor",
    type=click.Path(path_type=Path),
    help="The second place for checkpoints; without it a cut tail cannot be seen.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the report as one JSON object.")
@click.pass_context
def verify(
    context: click.Context, path: Path | None, option: Path | None, key: str | None, anchor: Path | None, as_json: bool
) -> None:
    """Check the trail at PATH, offline, and say what that proves and what not.

    Exit status: 0 nothing wrong, 1 problems, 2 not a trail.
    """
    try:
        where = _where(path, option)
        if anchor is not None and not anchor.exists():
            raise AuditError(
                f"there is no second place at `{anchor}`", path=str(anchor), remedy="name the file of checkpoints"
            )
        report = check(where, key=_key(key, where), anchor=anchor)
    except AuditError as error:
        _fail(context, error)
        return
    if as_json:
        click.echo(json.dumps(asdict(report), sort_keys=True))
    else:
        _show(report)
    context.exit(0 if report.ok else _PROBLEMS)


def _key(text: str | None, trail: Path) -> VerifierKey | bytes | None:
    if text is None:
        beside = trail.with_suffix(".key")
        return read_public_key(beside) if beside.is_file() and os.access(beside, os.R_OK) else None
    if Path(text).is_file():
        return read_public_key(Path(text))
    try:
        return VerifierKey.parse(text)
    except ValueError as error:
        raise AuditError(
            f"`{text[:200]}` is neither a file nor a verifier key",
            remedy="copy the one that `remit audit verify` printed",
        ) from error


def _show(report: Report) -> None:
    click.echo(f"trail         {visible(report.path, 1000)}")
    click.echo(f"events        {report.events}")
    if report.first_ms is not None and report.last_ms is not None:
        click.echo(f"from, to      {_moment(report.first_ms)}, {_moment(report.last_ms)}")
    click.echo(f"root          {report.root}")
    click.echo(f"checkpoints   {report.checkpoints} in the file, {report.anchors} in a second place")
    click.echo(f"key           {visible(report.key, 400)} ({'trusted' if report.key_trusted else 'as the trail says'})")
    if report.unfinished:
        click.echo(f"unfinished    {report.unfinished} calls without an outcome")
    for label, lines in (("proven", report.proven), ("not proven", report.not_proven)):
        click.echo(f"\n{label}")
        for line in lines or ["nothing"]:
            click.echo(f"  - {visible(line, 1000)}")
    if report.problems:
        click.echo("\nproblems")
        for sequence, what in report.problems:
            click.echo(f"  - {'' if sequence is None else f'event {sequence}: '}{visible(what, 1000)}")
    click.echo(f"\n{'ok' if report.ok else 'not ok: the trail was changed or is damaged'}")


@audit.command()
@_trail
@click.option("-n", "count", type=click.IntRange(min=0), default=10, show_default=True, help="How many of the last.")
@click.option("-f", "--follow", is_flag=True, help="Go on with events as they come, until interrupted.")
@click.option("--json", "as_json", is_flag=True, help="Print each event as one line of JSON.")
@click.option("--denied", is_flag=True, help="Only what was denied.")
@click.option("--principal", metavar="P", help="Only what P did, or what was done on P's behalf.")
@click.option("--type", "kind", metavar="T", help="Only events of this type.")
@click.pass_context
def tail(
    context: click.Context,
    path: Path | None,
    option: Path | None,
    count: int,
    follow: bool,
    as_json: bool,
    denied: bool,
    principal: str | None,
    kind: str | None,
) -> None:
    """Show the last events of the trail at PATH, oldest first."""

    def wanted(record: Record) -> bool:
        event = record.event
        return (
            (not denied or event.result == "denied")
            and (principal is None or principal == event.principal or principal in event.chain)
            and (kind is None or kind == event.type)
        )

    line = _json_line if as_json else _line
    try:
        with Reader(_where(path, option)) as reader:
            seen = reader.last()
            with contextlib.closing(reader.newest(seen)) as rows:  # left open, it would never see what comes
                last = list(itertools.islice(filter(wanted, (_record(*row) for row in rows)), count))
            for record in reversed(last):
                click.echo(line(record))
            if follow:
                for record in filter(wanted, _coming(reader, seen)):
                    click.echo(line(record))
    except AuditError as error:
        _fail(context, error)
    except KeyboardInterrupt:  # the way in which `--follow` ends
        return


def _coming(reader: Reader, seen: int) -> Iterator[Record]:
    """Events behind number `seen`, as they are committed."""
    change = None
    while True:
        if (now := reader.changes()) == change:
            time.sleep(_POLL_SECONDS)
            continue
        change = now
        while rows := list(reader.records(seen + 1, seen + 1 + _CHUNK)):
            for row in rows:
                yield _record(*row)
            seen = rows[-1][0]


def _record(sequence: int, data: object) -> Record:
    try:
        if not isinstance(data, bytes):
            raise ValueError("not bytes")  # noqa: TRY004 - the same finding as any other malformed record
        return decode(data)
    except ValueError as error:
        raise AuditError(
            f"event {sequence} of the trail is not one: {error}", remedy="run `remit audit verify` on it"
        ) from error


def _moment(moment_ms: int) -> str:
    try:
        return datetime.fromtimestamp(moment_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S.%f")[:-3] + "Z"
    except (ValueError, OverflowError, OSError):  # a year that no calendar has
        return f"{moment_ms} ms"


def _line(record: Record) -> str:
    event = record.event
    words = [
        f"{record.sequence:>6}",
        _moment(event.timestamp or 0),
        f"{event.result:<7}",
        visible(event.type, 64),
        visible(" > ".join((*event.chain, event.principal)) if event.chain else event.principal, 120),
        visible(event.action, 120),
    ]
    if event.resource:
        words.append(visible(event.resource, 200))
    words.append(f"[{visible(event.enforced_by, 40)}]")
    if event.context:
        words.append(visible(json.dumps(event.context, ensure_ascii=False, sort_keys=True), 300))
    return "  ".join(words)


def _json_line(record: Record) -> str:
    """All of the event. ASCII only: the bytes that are stored may hold what moves a terminal's cursor."""
    fields: dict[str, Any] = {"seq": record.sequence, **asdict(record.event)}
    return json.dumps(
        {name: value for name, value in fields.items() if value not in ("", None, (), {})}, sort_keys=True
    )
