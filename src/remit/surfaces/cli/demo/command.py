"""The command: reads what it is asked for, puts a canary into the environment of its process, runs the demo."""

from __future__ import annotations

import asyncio
import json
import os
import re
import secrets
import subprocess
import sys
from pathlib import Path
from typing import Any

import click

from remit.errors import RemitError
from remit.surfaces.cli import exits

__all__ = ["demo"]

_FILES = Path(__file__).resolve().parent.parent / "demo_files"
_NOTICE = _FILES / "minutes.txt"
_VARIABLE = "AGENT_DEMO_CANARY"
_CANARY = re.compile(r"canary-[0-9a-f]{32}")
_FAILED = 1


@click.command()
@click.argument("folder", required=False, metavar="[FOLDER]")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document with everything, and nothing else.")
@click.option(
    "--no-sandbox-control",
    "control",
    is_flag=True,
    help="First show that each attack succeeds in a plain process: bounded, and without harm.",
)
@click.option("--keep/--no-keep", default=True, show_default=True, help="Keep the audit trail of the demo.")
@click.option("--simulate", metavar="JSON", hidden=True, help="Take features of the kernel away, for tests.")
@click.option("--also-allow", "more", multiple=True, metavar="GRANT", hidden=True, help="Grant more, for tests.")
@click.pass_context
def demo(
    context: click.Context,
    folder: str | None,
    as_json: bool,
    control: bool,
    keep: bool,
    simulate: str | None,
    more: tuple[str, ...],
) -> None:
    """Let an agent report on the text files of FOLDER while an injected text talks it into attacks.

    FOLDER is any folder of yours; by default a small one that comes with remit. Nothing in it is changed, and the
    agent's model is a script, so no key is needed. The audit trail of the demo is its own, in a temporary folder,
    unless REMIT_STATE_DIR or REMIT_AUDIT_PATH says otherwise.

    Exit status: 0 every attack was stopped, the report was written, and the trail verified; 1 not so; 2 usage, or this
    machine cannot jail.
    """
    try:
        place = _folder(folder)
        taken = _simulated(simulate)
        words = ["--json"] * as_json + ["--no-sandbox-control"] * control + ["--keep" if keep else "--no-keep"]
        words += ["--simulate", simulate] if simulate is not None else []
        words += [word for grant in more for word in ("--also-allow", grant)]
        canary, environment = _canary([*words, "--", os.fspath(place)])
    except RemitError as error:
        context.exit(_complain(error, as_json=as_json))
    context.exit(_run(place, canary, environment, as_json=as_json, control=control, keep=keep, taken=taken, more=more))


def _folder(named: str | None) -> Path:
    """The folder, absolute, links followed; refused where nothing could be reported on."""
    given = named if named is not None else os.fspath(_FILES)
    try:
        place = os.path.realpath(given, strict=True)
        with os.scandir(place) as entries:
            next(entries, None)
    except (OSError, ValueError) as error:
        reason = (getattr(error, "strerror", None) or str(error)).lower()
        raise RemitError(
            f"the folder `{given}` cannot be read: {reason}", remedy="name a folder with text files"
        ) from None
    try:
        place.encode("utf-8")
    except UnicodeEncodeError:
        raise RemitError(
            f"the name of the folder `{place}` is not UTF-8, and a grant is text", remedy="rename it, or use a copy"
        ) from None
    return Path(place)


def _simulated(text: str | None) -> dict[str, Any] | None:
    if text is None:
        return None
    try:
        taken = json.loads(text)
    except ValueError:
        taken = None
    if not isinstance(taken, dict):
        raise RemitError("`--simulate` takes a JSON object", remedy='such as `{"namespaces": false}`')
    return taken


def _canary(words: list[str]) -> tuple[str, dict[str, str]]:
    """The canary in this process's environment, and that environment.

    A variable that is set later would not be in /proc/PID/environ, where an attack looks as well (environ(7)), so the
    command begins again with it, as the same process where the output is its own.
    """
    from remit.config import host_environment

    environment = host_environment()
    value = environment.get(_VARIABLE, "")
    if _CANARY.fullmatch(value):
        return value, environment
    environment[_VARIABLE] = f"canary-{secrets.token_hex(16)}"
    if not sys.executable:
        raise RemitError(
            "python does not know where it is: `sys.executable` is empty", remedy="run it by its whole path"
        )
    command = [sys.executable, "-P", "-m", "remit", "demo", *words]
    if sys.stdout is sys.__stdout__ and sys.__stdout__ is not None:
        sys.__stdout__.flush()
        os.execve(sys.executable, command, environment)  # noqa: S606  # itself, without a shell
    done = subprocess.run(command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, check=False)
    click.echo(done.stdout, nl=False)
    click.echo(done.stderr, nl=False, err=True)
    raise click.exceptions.Exit(done.returncode)


def _run(
    place: Path,
    canary: str,
    environment: dict[str, str],
    *,
    as_json: bool,
    control: bool,
    keep: bool,
    taken: dict[str, Any] | None,
    more: tuple[str, ...],
) -> int:
    from remit.surfaces.cli.demo.stage import Canary, Setting, perform
    from remit.surfaces.cli.demo.table import display_for, show_result

    setting = Setting(
        folder=place,
        notice=_NOTICE.read_text(encoding="utf-8"),
        canary=Canary(_VARIABLE, canary),
        environment=environment,
        control=control,
        keep=keep,
        simulate=taken,
        more=more,
    )
    try:
        result = asyncio.run(perform(setting, display_for(sys.stdout, as_json=as_json, control=control)))
    except RemitError as error:
        return _complain(error, as_json=as_json)
    show_result(result, as_json=as_json, stream=sys.stdout)
    return _FAILED if result.problems else 0


def _complain(error: RemitError, *, as_json: bool) -> int:
    """Say why nothing was run; returns the exit status."""
    if as_json:
        click.echo(json.dumps({"ok": False, "error": {"type": type(error).__name__, **exits.parts(error)}}))
    click.echo(exits.message(**exits.parts(error)), err=True)
    return exits.USAGE
