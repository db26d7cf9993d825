"""The group `remit`: finds its commands when they are used, and turns every error into one message and a status."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Mapping, Sequence
from importlib import import_module
from types import MappingProxyType
from typing import Any, Final

import click

from remit import __version__
from remit.errors import RemitError
from remit.surfaces.cli import exits
from remit.surfaces.cli.text import visible

__all__ = ["COMMANDS", "root", "run"]

COMMANDS: Final[Mapping[str, tuple[str, str]]] = MappingProxyType(
    {
        "run": ("remit.surfaces.cli.run", "Run one function of a file, or a program, in a jail."),
        "demo": (
            "remit.surfaces.cli.demo",
            "Let an agent report on the text files of FOLDER while an injected text talks it into attacks.",
        ),
        "doctor": ("remit.surfaces.cli.doctor", "Show what this machine holds of what remit promises."),
        "audit": ("remit.surfaces.cli.audit", "Look at the audit trail, and check that nothing in it was changed."),
    }
)
"""Name -> (module, which has a command of that name; one line of help, so that `--help` imports none of them)."""

_PIPE: Final = 128 + 13
_INTERRUPTED: Final = 130


class _Commands(click.Group):
    """A group whose commands are imported when they are used."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's name and place
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002 - click's
        if cmd_name not in COMMANDS:
            return None
        module = COMMANDS[cmd_name][0]
        try:
            command = getattr(import_module(module), cmd_name, None)
        except ModuleNotFoundError as error:
            if error.name == module:
                return None
            raise
        return command if isinstance(command, click.Command) else None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002 - click's
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="remit", message="%(prog)s %(version)s")
def root() -> None:
    """Keep an AI agent within its remit: what it may do is declared once, enforced at the call and in the kernel."""


def run(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status and raises nothing that remit raises on purpose."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    _readable()
    try:
        status = _status(words)
        _flush()
    except BrokenPipeError:
        _close_output()
        return _PIPE
    return status


def _status(words: list[str]) -> int:
    try:
        answer: Any = root.main(words, prog_name="remit", standalone_mode=False)
    except click.UsageError as error:
        return _misused(error, words)
    except click.ClickException as error:
        click.echo(exits.message(error.format_message()), err=True)
        return error.exit_code
    except click.exceptions.Exit as error:
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        click.echo("remit: interrupted", err=True)
        return _INTERRUPTED
    except RemitError as error:
        return exits.complain(error)
    except SystemExit:  # click's answer to a broken pipe, and to nothing else where it does not stand alone
        _close_output()
        return _PIPE
    return answer if isinstance(answer, int) else 0


def _misused(error: click.UsageError, words: list[str]) -> int:
    """One message; as JSON too where JSON was asked for."""
    context = error.ctx
    where = context.command_path if context is not None else "remit"
    own = words[: words.index("--")] if "--" in words else words
    reason = error.format_message().rstrip(".")
    reason = reason[:1].lower() + reason[1:]
    if "--json" in own and where in ("remit run", "remit doctor"):
        from remit.surfaces.cli.report import Report

        Report(status="usage", reason=reason, remedy=f"see `{where} --help`").write()
    click.echo(exits.message(reason, remedy=f"{visible(where)} --help"), err=True)
    return exits.USAGE


def _readable() -> None:
    """Have nothing that is printed fail for want of a character in the encoding of the output."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            stream.flush()


def _close_output() -> None:
    """Whoever read the output has gone: let the interpreter's own flush at exit find nothing to complain of."""
    null = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        try:
            os.dup2(null, stream.fileno())
        except (AttributeError, OSError, ValueError):
            continue
