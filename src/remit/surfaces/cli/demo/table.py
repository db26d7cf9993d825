"""How the demo is shown: a live table in a terminal, plain lines elsewhere, one JSON document."""

from __future__ import annotations

import json
import shlex
import textwrap
from typing import TextIO

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from remit.surfaces.cli.demo.attacks import Attack
from remit.surfaces.cli.demo.stage import Display, Result, Row, Setting
from remit.surfaces.cli.demo.story import spelled
from remit.surfaces.cli.text import visible

__all__ = ["LiveTable", "PlainLines", "Silence", "display_for", "show_result"]

_NARROW = 72  # columns; below this a table has no room for words


class Silence:
    """Shows nothing: `--json` prints one document at the end."""

    def begin(self, setting: Setting, tier: str) -> None:
        """See Display."""

    def attempt(self, attack: Attack, *, planted: bool) -> None:
        """See Display."""

    def ended(self, row: Row) -> None:
        """See Display."""

    def end(self) -> None:
        """See Display."""


class PlainLines:
    """A line or two for each attack, when it is over: for pipes, logs and narrow terminals."""

    def __init__(self, stream: TextIO, width: int) -> None:
        self._stream = stream
        self._width = width
        self._noted = False

    def begin(self, setting: Setting, tier: str) -> None:
        """See Display."""
        for line in _opening(setting, tier):
            self._say(line)
        self._say("")

    def attempt(self, attack: Attack, *, planted: bool) -> None:  # noqa: ARG002  # Display's form
        """See Display."""
        if planted and not self._noted:
            self._noted = True
            self._say(_PLANTED)

    def ended(self, row: Row) -> None:
        """See Display."""
        head = "stopped" if row.verdict.stopped else "NOT STOPPED"
        who = f"; {_who(row)}" if row.verdict.by else ""
        self._say(f"{head}: {row.attack.tried}: {visible(row.verdict.happened)} ({_ms(row.ms)}{who})", "  ")
        if row.plain is not None:
            self._say(f"  without a jail: {row.plain or 'it did not succeed, so this shows nothing'}", "    ")

    def end(self) -> None:
        """See Display."""

    def _say(self, text: str, indent: str = "") -> None:
        print("\n".join(textwrap.wrap(text, self._width, subsequent_indent=indent)), file=self._stream, flush=True)


class LiveTable:
    """A table that grows while the attacks run."""

    def __init__(self, console: Console, *, control: bool) -> None:
        self._console = console
        self._control = control
        self._rows: list[Row] = []
        self._running: Attack | None = None
        self._planted = False
        self._live: Live | None = None

    def begin(self, setting: Setting, tier: str) -> None:
        """See Display."""
        for line in _opening(setting, tier):
            self._console.print(Text(line))
        self._console.print()
        self._live = Live(self._table(), console=self._console, auto_refresh=False)
        self._live.start()

    def attempt(self, attack: Attack, *, planted: bool) -> None:
        """See Display."""
        self._running = attack
        self._planted = self._planted or planted
        self._refresh()

    def ended(self, row: Row) -> None:
        """See Display."""
        self._running = None
        self._rows.append(row)
        self._refresh()

    def end(self) -> None:
        """See Display."""
        if self._live is not None:
            self._running = None
            self._refresh()
            self._live.stop()
            self._live = None

    def _refresh(self) -> None:
        if self._live is not None:
            self._live.update(self._table(), refresh=True)

    def _table(self) -> Table:
        # While it grows, only what fits on the screen: what is beyond its end would not be seen at all.
        most = max(2, (self._console.height - 6) // 2) if self._running is not None else len(self._rows)
        rows = self._rows[-most:] if most else []
        table = Table(box=SIMPLE_HEAD, pad_edge=False, caption=_PLANTED if self._planted else None)
        table.add_column("what the agent tried", ratio=3)
        if self._control:
            table.add_column("without a jail", ratio=2, style="yellow")
        table.add_column("what happened", ratio=4)
        table.add_column("stopped by", ratio=2)
        table.add_column("took", justify="right", no_wrap=True)
        for row in rows:
            style = "green" if row.verdict.stopped else "bold red"
            cells = [Text(row.attack.tried)]
            if self._control:
                cells.append(Text(row.plain or "did not succeed", style="" if row.plain else "bold red"))
            cells += [Text(visible(row.verdict.happened)), Text(_who(row) or "nobody", style=style), Text(_ms(row.ms))]
            table.add_row(*cells)
        if self._running is not None:
            waiting = [Text("...", style="dim")] * (4 if self._control else 3)
            table.add_row(Text(self._running.tried, style="dim"), *waiting)
        return table


_PLANTED = "No text of FOLDER asks for it, so the demo tells the model what an injected text would."


def display_for(stream: TextIO, *, as_json: bool, control: bool) -> Display:
    """The display that fits where `stream` leads."""
    if as_json:
        return Silence()
    console = Console(file=stream, highlight=False)
    if not console.is_terminal or console.is_dumb_terminal or console.width < _NARROW:
        return PlainLines(stream, max(20, min(console.width, 100)) if console.is_terminal else 100)
    return LiveTable(console, control=control)


def show_result(result: Result, *, as_json: bool, stream: TextIO) -> None:
    """The report, the trail, what was shown, and what to try next; or the document."""
    if as_json:
        print(json.dumps(result.as_dict(), sort_keys=True), file=stream)
        return
    console = Console(file=stream, highlight=False)
    width = max(20, console.width) if console.is_terminal else 100
    for line in _closing(result):
        wrapped = textwrap.wrap(line, width, subsequent_indent="    ", break_long_words=False, break_on_hyphens=False)
        print("\n".join(wrapped), file=stream)


def _opening(setting: Setting, tier: str) -> list[str]:
    return [
        f"An agent is asked to report on the text files of {visible(spelled(setting.folder), 400)}.",
        "It may read them, count words, and run Python; nothing else.",
        "Its model is a script that obeys whatever it reads, as a model can be talked into.",
        f"Each of its calls runs in a jail of its own: {tier}.",
    ]


def _closing(result: Result) -> list[str]:
    trail = result.trail
    lines = ["", *(visible(line, 400) for line in result.report.splitlines()), ""]
    lines.append(
        f"Audit trail: {trail.events} events, {trail.checkpoints} signed checkpoints, root {trail.root[:16]}...: "
        + ("verified, nothing was changed or left out" if trail.ok else "NOT verified")
        + (f"; {trail.unfinished} calls without an outcome" if trail.unfinished else "")
    )
    stopped = [row for row in result.rows if row.verdict.stopped]
    monitor = sum(row.verdict.by == "monitor" for row in stopped)
    lines.append(
        f"Shown: {len(stopped)} of {len(result.rows)} attacks were stopped, {monitor} by the monitor and "
        f"{len(stopped) - monitor} by the kernel, in {result.seconds:.1f} s; "
        + ("the report was written all the same." if result.produced else "the report was NOT written.")
    )
    lines += [f"Not held here: {name} (no {missing})." for name, missing in sorted(result.unheld.items())]
    lines += [f"FAILED: {visible(problem, 400)}" for problem in result.problems]
    lines.append("Try next:")
    lines.append("  remit doctor    which guarantees hold on this machine")
    lines.append("  remit run -- ls /    a program of yours in a jail; or remit run FILE.py:FUNCTION")
    if result.kept:
        lines.append(f"  remit audit verify {shlex.quote(result.kept)}")
    return lines


def _who(row: Row) -> str:
    return f"{row.verdict.by}: {row.verdict.mechanism}" if row.verdict.by else ""


def _ms(ms: float) -> str:
    return f"{ms:.0f} ms" if ms >= 10 else f"{ms:.1f} ms"
