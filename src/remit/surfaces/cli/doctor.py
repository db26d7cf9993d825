"""`remit doctor`: what this machine holds of what remit promises, why not, and what would change it."""

from __future__ import annotations

import json
import os
import platform
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import click

from remit import __version__
from remit.config import SecurityConfig, default_state_dir, prepare_state_dir
from remit.errors import RemitError
from remit.jail.probe import GUARANTEES, Features, guarantees
from remit.policy.compile import required
from remit.surfaces.cli.text import visible

__all__ = ["doctor"]

_WORDS = {
    "landlock_abi": "Landlock (its ABI)",
    "namespaces": "namespaces and a new root",
    "call_userns": "a user namespace for each call",
    "listener": "seccomp user notification",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Guarantee:
    """One line: `says` is the promise, `required` whether a call needs it by default."""

    id: str
    name: str
    says: str
    held: bool
    required: bool
    missing: str
    remedy: str


@dataclass(frozen=True, slots=True, kw_only=True)
class _Findings:
    """All that is shown. `problems` are what keeps calls from being recorded or run: (what, help)."""

    ok: bool
    remit: str
    python: str
    executable: str
    system: str
    features: Mapping[str, Any]
    tier: str
    guarantees: tuple[_Guarantee, ...]
    policy: str | None
    state_dir: str
    state_dir_there: bool
    audit_trail: str | None
    problems: tuple[tuple[str, str], ...]


@click.command(short_help="Show what this machine holds of what remit promises.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.option("--policy", metavar="FILE", help="The policy file; else remit.yaml in this folder, where there is one.")
@click.pass_context
def doctor(context: click.Context, as_json: bool, policy: str | None) -> None:
    """Start a sandbox, find out what the kernel offers, and show which guarantees hold and what to do about the rest.

    Exit status: 0 all that a call needs by default is held, 1 something is not, or a setting is wrong.
    """
    findings = _find(policy)
    if as_json:
        click.echo(json.dumps(asdict(findings)))
    elif sys.stdout is not None and sys.stdout.isatty():
        _show_table(findings)
    else:
        _show_plain(findings)
    context.exit(0 if findings.ok else 1)


def _find(policy: str | None) -> _Findings:
    problems: list[tuple[str, str]] = []
    features, why = _features()
    held = guarantees(features)
    if features.supported or not why:
        rows = [(name, held[name].held, held[name].missing, held[name].remedy) for name in GUARANTEES]
    else:  # this is Linux, and the zygote did not start: nothing holds, for that reason
        rows = [(name, False, why, "run `remit doctor` outside of other sandboxes") for name in GUARANTEES]
    needed = required()
    found = tuple(
        _Guarantee(
            id=GUARANTEES[name].partition(":")[0],
            name=name,
            says=GUARANTEES[name].partition(": ")[2],
            held=holds,
            required=name in needed,
            missing=missing,
            remedy=remedy,
        )
        for name, holds, missing, remedy in rows
    )
    path, state, trail = None, None, None
    try:
        config = SecurityConfig.load(policy)
        path = None if config.path is None else str(config.path)
        state = config.state_dir
        trail = config.audit.path if config.monitoring.audit_trail else None
    except RemitError as error:
        place = getattr(error, "place", "")
        problems.append((f"{place}: {error.reason}" if place else error.reason, error.remedy))
    if state is None:
        try:
            state = default_state_dir()
        except RemitError as error:
            problems.append((str(error), ""))
    problems += _state_problems(state)
    return _Findings(
        ok=not problems and all(one.held for one in found if one.required),
        remit=__version__,
        python=platform.python_version(),
        executable=sys.executable,
        system=f"{platform.system()} {platform.release()} {platform.machine()}",
        features={} if not features.supported else asdict(features),
        tier=features.tier if features.supported else "",
        guarantees=found,
        policy=path,
        state_dir="" if state is None else str(state),
        state_dir_there=state is not None and state.exists(),
        audit_trail=None if trail is None else str(trail),
        problems=tuple(problems),
    )


def _features() -> tuple[Features, str]:
    """What the kernel offers, found by starting a zygote and asking it; else why there is none."""
    if sys.platform != "linux":
        return Features(), ""
    from remit.jail.supervisor import Supervisor, Unheld

    try:
        supervisor = Supervisor(bootstrap="remit.inside")
    except Unheld as error:
        other = os.uname().machine not in ("x86_64", "aarch64")
        return Features(), "" if other else error.missing
    try:
        return supervisor.features, ""
    finally:
        supervisor.close()


def _state_problems(state: Path | None) -> list[tuple[str, str]]:
    """What is wrong with the folder of remit's own files, or, before it is there, with where it would be made."""
    if state is None:
        return []
    if os.path.lexists(state):
        try:
            prepare_state_dir(state)
        except RemitError as error:
            return [(error.reason, error.remedy)]
        return []
    above = next(folder for folder in state.parents if folder.exists())
    if os.access(above, os.W_OK | os.X_OK):
        return []
    return [(f"the state folder `{state}` cannot be made in `{above}`", "set REMIT_STATE_DIR to one that can")]


def _facts(findings: _Findings) -> list[tuple[str, str]]:
    there = "" if findings.state_dir_there else " (made at the first call)"
    return [
        ("remit", findings.remit),
        ("python", f"{findings.python}, {findings.executable}"),
        ("system", findings.system),
        ("policy", findings.policy or "no file: the defaults"),
        ("state", f"{findings.state_dir}{there}" if findings.state_dir else "none"),
        ("audit trail", findings.audit_trail or "none"),
        ("tier", findings.tier or "none: nothing can be jailed here"),
        *((label, _shown(findings.features[name])) for name, label in _WORDS.items() if name in findings.features),
    ]


def _shown(value: Any) -> str:
    return {True: "yes", False: "no"}[value] if isinstance(value, bool) else str(value) if value else "no"


def _word(one: _Guarantee) -> str:
    return "held" if one.held else "NOT HELD" if one.required else "not held"


def _why(one: _Guarantee) -> str:
    need = "calls are refused" if one.required else "calls run without it"
    return f"no {one.missing}; {need}"


def _show_plain(findings: _Findings) -> None:
    for label, text in _facts(findings):
        click.echo(f"{label:<32}{visible(text, 1000)}")
    click.echo()
    for one in findings.guarantees:
        click.echo(f"{one.id:<4} {_word(one):<9} {one.name:<15} {one.says}")
    _show_rest(findings)


def _show_table(findings: _Findings) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(highlight=False)
    facts = Table.grid(padding=(0, 2))
    for label, text in _facts(findings):
        facts.add_row(Text(label, style="bold"), Text(visible(text, 1000), overflow="fold"))
    table = Table("", "", "guarantee", "what it promises", box=None, header_style="bold", padding=(0, 2, 0, 0))
    for one in findings.guarantees:
        style = "green" if one.held else "bold red" if one.required else "yellow"
        table.add_row(one.id, Text(_word(one), style=style), one.name, one.says)
    console.print(facts, "", table)
    _show_rest(findings)


def _show_rest(findings: _Findings) -> None:
    """Why something is not held, and what to do: once for all guarantees that lack the same."""
    lacking: dict[tuple[str, str], list[str]] = {}
    for one in findings.guarantees:
        if not one.held:
            lacking.setdefault((_why(one), one.remedy), []).append(one.id)
    for (why, remedy), ids in lacking.items():
        click.echo(f"\n{', '.join(ids)}: {visible(why, 1000)}\n  help: {visible(remedy, 1000)}")
    for what, remedy in findings.problems:
        click.echo(f"\nproblem: {visible(what, 1000)}" + (f"\n  help: {visible(remedy, 1000)}" if remedy else ""))
    click.echo(f"\n{'ok' if findings.ok else 'not ok'}")
