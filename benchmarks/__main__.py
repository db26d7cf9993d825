"""Measure remit beside its peers on this machine: `python3 run.py bench [--quick] [--only NAME]... [--json PATH]`.

`value` is ours unless the row is a peer's own; `ratio` is always ours / theirs, from blocks that were measured in turn.
Exit status: 0 measured (what a missing peer leaves out is said), 1 something of ours could not be, 2 usage.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks import measure, report
from benchmarks.jail import Jail
from benchmarks.parts import PARTS
from benchmarks.peers import ROOT
from benchmarks.rows import Result, Row, UnknownRow, chosen
from remit.errors import RemitError
from remit.jail.supervisor import Unfit, Unheld

__all__ = ["main"]


def arguments(words: Sequence[str] | None) -> tuple[measure.Effort, tuple[Row, ...], Path]:
    parser = argparse.ArgumentParser(prog="run.py bench", description="The figures, ours beside our peers'.")
    parser.add_argument("--quick", action="store_true", help="fewer samples: a look, not a figure to quote")
    parser.add_argument("--only", action="append", default=[], metavar="NAME", help="a row, or all beneath a name")
    parser.add_argument("--json", type=Path, default=ROOT / "build" / "bench.json", metavar="PATH")
    given = parser.parse_args(words)
    try:
        rows = chosen(given.only)
    except UnknownRow as error:
        parser.error(str(error))
    return measure.QUICK if given.quick else measure.FULL, rows, given.json


def main(words: Sequence[str] | None = None) -> int:
    """Measure, show, and keep the JSON and, beside it, the drawing."""
    effort, rows, path = arguments(words)
    notes: list[str] = []
    results: list[Result] = []
    failed = False
    machine = measure.machine()
    try:
        with Jail() as jail:
            machine["tier"] = jail.tier
    except Unheld as error:
        print(f"not measured: {error}; {error.remedy}", file=sys.stderr)
        return 1
    except Unfit as error:
        print(f"no jail could be made: {error}", file=sys.stderr)
        return 1
    for name, part in PARTS.items():
        wanted = [row for row in rows if row.part == name]
        if not wanted:
            continue
        print(f"measuring {', '.join(row.name for row in wanted)}", file=sys.stderr, flush=True)
        try:
            figures = part(effort, notes.append, frozenset(row.name for row in wanted))
        except (RemitError, Unheld, Unfit, RuntimeError, TimeoutError) as error:
            notes.append(f"{name} could not be measured: {error}")
            failed = True
            continue
        results += [Result(row, *figures[row.name]) for row in wanted if row.name in figures]
    mode = "quick" if effort is measure.QUICK else "full"
    facts = {"mode": mode, "samples": effort.samples, **machine}
    report.show(results, facts, notes, sys.stdout)
    title = f"remit, {mode}: {machine['cores']} cores, {machine['kernel']}, {machine['python']}"
    report.write(path, report.as_json(results, machine=facts, notes=notes))
    report.write(path.with_suffix(".svg"), report.drawing(results, title))
    print(f"written: {path}, {path.with_suffix('.svg')}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
