"""What is shown and kept: a table, the JSON, and a drawing."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO
from xml.sax.saxutils import escape

from benchmarks.rows import Result

__all__ = ["as_json", "drawing", "show", "write"]

_WIDTH, _LINE, _LEFT, _RIGHT = 960, 26, 230, 150
_OURS, _THEIRS = "#2563eb", "#9ca3af"


def as_json(results: Sequence[Result], **more: Any) -> str:
    """The results, one row a figure, and what else is to be known of the run."""
    return json.dumps({"results": [result.as_dict() for result in results], **more}, indent=2, allow_nan=False) + "\n"


def write(path: Path, text: str) -> None:
    """Write a file, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    half = path.with_name(f".{path.name}.new")
    half.write_text(text, encoding="utf-8")
    os.replace(half, path)


def show(results: Sequence[Result], machine: Mapping[str, Any], notes: Sequence[str], out: TextIO) -> None:
    """Print the table: with colours and lines on a terminal, plain where it is read by something else."""
    lines = [_line(result) for result in results]
    about = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in machine.items())
    if out.isatty():
        from rich.console import Console
        from rich.table import Table

        table = Table(caption=about)
        for name, side in zip(_HEAD, _SIDES, strict=True):
            table.add_column(name, justify="right" if side == ">" else "left", no_wrap=name == "row")
        for line in lines:
            table.add_row(*line)
        console = Console(file=out)
        console.print(table)
        for note in notes:
            console.print(note, markup=False)
        return
    widths = [max(len(line[column]) for line in [_HEAD, *lines]) for column in range(len(_HEAD))]
    for line in [_HEAD, *lines]:
        cells = [f"{cell:{side}{width}}" for cell, side, width in zip(line, _SIDES, widths, strict=True)]
        print("  ".join(cells).rstrip(), file=out)
    print(about, file=out)
    for note in notes:
        print(note, file=out)


_HEAD = ("row", "value", "unit", "ours / theirs", "against", "what it is")
_SIDES = ("<", ">", "<", ">", "<", "<")


def _line(result: Result) -> tuple[str, ...]:
    row = result.row
    return (row.name, _number(result.value), row.unit, f"{_number(result.ratio)}x", row.against, row.meaning)


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def drawing(results: Sequence[Result], title: str) -> str:
    """An SVG: a bar for each latency and for each rate, on logarithmic scales; ours in blue."""
    parts: list[str] = []
    top = 48
    for unit, heading in (("ms", "milliseconds, less is better"), ("calls/s", "calls per second, more is better")):
        shown = [result for result in results if result.row.unit == unit and result.value > 0]
        if not shown:
            continue
        low = math.floor(min(math.log10(result.value) for result in shown) - 0.01)
        high = math.ceil(max(math.log10(result.value) for result in shown) + 0.01)
        scale = (_WIDTH - _LEFT - _RIGHT) / (high - low)
        bottom = top + 14 + len(shown) * _LINE
        parts.append(_text(_LEFT, top, heading, weight="bold"))
        for power in range(low, high + 1):
            x = _LEFT + (power - low) * scale
            parts.append(f'<path d="M{x:.1f} {top + 8}V{bottom}" stroke="#e5e7eb"/>')
            parts.append(_text(x, bottom + 14, f"{10.0**power:g}", anchor="middle"))
        for place, result in enumerate(shown):
            y = top + 14 + place * _LINE
            width = max(1.0, (math.log10(result.value) - low) * scale)
            colour = _OURS if result.row.name.startswith(("jail.", "call.", "startup.")) else _THEIRS
            parts.append(f'<rect x="{_LEFT}" y="{y}" width="{width:.1f}" height="{_LINE - 8}" fill="{colour}"/>')
            parts.append(_text(_LEFT - 8, y + 13, result.row.name, anchor="end"))
            label = f"{_number(result.value)} ({_number(result.ratio)}x)"
            parts.append(_text(_LEFT + width + 6, y + 13, label))
        top = bottom + 56
    head = f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{top}" font-family="sans-serif">'
    ground = '<rect width="100%" height="100%" fill="white"/>'
    return "\n".join([head, ground, _text(16, 24, title, weight="bold"), *parts, "</svg>"]) + "\n"


def _text(x: float, y: float, text: str, *, anchor: str = "start", weight: str = "normal") -> str:
    return (
        f'<text x="{x:.1f}" y="{y}" font-size="12" text-anchor="{anchor}" font-weight="{weight}">{escape(text)}</text>'
    )
