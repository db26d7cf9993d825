"""The command line: `remit`. Each command is a module of its own, imported when it is used."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NoReturn

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command line and exit with its status; the `remit` console script.

    Args:
        arguments: what follows the program's name; by default the process's own.

    Raises:
        SystemExit: always.
    """
    from remit.surfaces.cli.root import run

    raise SystemExit(run(arguments))
