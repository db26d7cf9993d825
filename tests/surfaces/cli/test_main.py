from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import click
import pytest

from remit import __version__
from remit.errors import (
    AuditError,
    Crashed,
    Denied,
    FunctionRaised,
    Killed,
    LimitExceeded,
    MemoryLimit,
    PolicyError,
    RateLimited,
    RemitError,
    SandboxUnavailable,
    TimeLimit,
    ValidationFailed,
)
from remit.model.call import Outcome
from remit.surfaces.cli import exits
from remit.surfaces.cli import root as cli
from tests.surfaces.cli.programs import ROOT, clean, command, environment, remit


@pytest.mark.parametrize("option", ["--help", "-h"])
def test_help_names_every_command_and_imports_none(tmp_path: Path, option: str) -> None:
    done = remit(option, cwd=tmp_path)
    assert done.returncode == 0
    for name, (_, text) in cli.COMMANDS.items():
        assert f"  {name} " in done.stdout
        assert text[:30] in done.stdout
    loaded = "import sys; from remit.surfaces.cli.root import run; run(['--help']); print(sorted(sys.modules))"
    done = subprocess.run([sys.executable, "-c", loaded], capture_output=True, text=True, check=True)
    for heavy in ("remit.runtime", "remit.audit", "remit.jail", "pydantic", "cryptography", "rich", "asyncio"):
        assert f"'{heavy}'" not in done.stdout


def test_the_line_of_help_is_the_commands_own() -> None:
    for name, (module, text) in cli.COMMANDS.items():
        command_of = getattr(import_module(module), name)
        assert isinstance(command_of, click.Command)
        assert command_of.get_short_help_str(200) == text


def test_version(tmp_path: Path) -> None:
    assert remit("--version", cwd=tmp_path).stdout == f"remit {__version__}\n"


def test_a_command_that_is_not_there_breaks_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    table = {**cli.COMMANDS, "gone": ("remit.surfaces.cli.gone", "It is not there.")}
    monkeypatch.setattr(cli, "COMMANDS", table)
    assert cli.run(["gone"]) == 2
    assert cli.run(["--help"]) == 0


def test_an_import_that_fails_inside_a_command_is_not_taken_for_a_missing_command(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "broken_command.py").write_text("import no_such_module_at_all")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(cli, "COMMANDS", {"broken_command": ("broken_command", "It cannot be imported.")})
    with pytest.raises(ModuleNotFoundError, match="no_such_module_at_all"):
        cli.run(["broken_command"])


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nothing"], "nothing"),
        (["--nothing"], "--nothing"),
        (["run", "--nothing"], "--nothing"),
        (["run", "--allow"], "--allow"),
        (["audit", "verify", "--nothing"], "--nothing"),
    ],
)
def test_usage_is_one_message_and_status_2(tmp_path: Path, arguments: list[str], said: str) -> None:
    message = clean(remit(*arguments, cwd=tmp_path), 2)
    first, second = message.splitlines()
    assert first.startswith("remit: ")
    assert said in first
    assert second.startswith("  help: remit")
    assert second.endswith(" --help")


def test_no_command_shows_the_help(tmp_path: Path) -> None:
    done = remit(cwd=tmp_path)
    assert done.returncode == 2
    assert "Commands:" in done.stdout + done.stderr


@pytest.mark.parametrize(
    ("error", "status", "word"),
    [
        (PolicyError("x", place="p"), 2, "policy"),
        (ValidationFailed("x"), 2, "invalid"),
        (AuditError("x"), 2, "audit"),
        (Denied("x"), 125, "denied"),
        (SandboxUnavailable("x"), 125, "unavailable"),
        (RateLimited("x", retry_after=1.0), 125, "limit"),
        (TimeLimit("x", limit="timeout"), 124, "limit"),
        (TimeLimit("x", limit="cpu"), 124, "limit"),
        (LimitExceeded("x", limit="import"), 124, "limit"),
        (MemoryLimit("x", limit="memory"), 137, "limit"),
        (LimitExceeded("x", limit="output"), 137, "limit"),
        (Killed("x"), 137, "killed"),
        (Crashed("x", signal="SIGSEGV"), 139, "crashed"),
        (Crashed("x"), 137, "crashed"),
        (FunctionRaised("x", type_name="E", message="m"), 1, "raised"),
        (RemitError("x"), 125, "error"),
    ],
)
def test_each_error_has_its_status_and_its_word(error: RemitError, status: int, word: str) -> None:
    assert exits.of_error(error) == status
    assert exits.status_of(error) == word


@pytest.mark.parametrize(
    ("outcome", "status"),
    [
        (Outcome(status="returned", value=3), 0),
        (Outcome(status="returned", exit_status=42), 42),
        (Outcome(status="raised", what="ValueError"), 1),
        (Outcome(status="raised", what="NotPlain"), 2),
        (Outcome(status="raised", what="exec", used=2), 127),
        (Outcome(status="raised", what="exec", used=13), 126),
        (Outcome(status="limit", what="timeout"), 124),
        (Outcome(status="limit", what="cpu"), 124),
        (Outcome(status="limit", what="memory"), 137),
        (Outcome(status="limit", what="result"), 2),
        (Outcome(status="denied", what="env:X"), 125),
        (Outcome(status="killed", what="x"), 137),
        (Outcome(status="crashed", what="SIGABRT"), 134),
        (Outcome(status="crashed", what="channel: not a frame"), 137),
    ],
)
def test_each_ending_has_its_status(outcome: Outcome, status: int) -> None:
    assert exits.of_outcome(outcome) == status


def test_an_error_is_one_line_with_its_place_and_one_with_the_help() -> None:
    error = PolicyError("unknown key `x\x1b[2J\nremit: all is well`", place="remit.yaml:3", remedy="did you\u202e mean")
    text = exits.message(**exits.parts(error))
    assert text == "remit: remit.yaml:3: unknown key `x\\x1b[2J\\nremit: all is well`\n  help: did you\\u202e mean"


@pytest.mark.parametrize("arguments", [("--help",), ("run", "--help"), ("doctor",), ("doctor", "--json")])
def test_a_broken_pipe_is_quiet(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    read, write = os.pipe()
    os.close(read)
    try:
        done = subprocess.run(
            command(*arguments), stdout=write, stderr=subprocess.PIPE, env=environment(tmp_path), check=False
        )
    finally:
        os.close(write)
    assert done.stderr == b""
    assert done.returncode == 141


def test_the_console_script_is_the_same_function() -> None:
    text = (ROOT / "pyproject.toml").read_text()
    assert 'remit = "remit.surfaces.cli:main"' in text
    from remit.surfaces.cli import main

    with pytest.raises(SystemExit) as ended:
        main(["--version"])
    assert ended.value.code == 0


# -- another system than Linux -----------------------------------------------------------------------------------------

ELSEWHERE = """
import os, select, socket, sys
# What is not remit's has asked already on which system it is.
import asyncio, cloudpickle, cryptography.hazmat.primitives.asymmetric.ed25519, platform, pydantic, rich.console
import selectors, sqlite3, subprocess, sysconfig, tempfile, tokenize, typing_extensions, uuid, yaml
pydantic.TypeAdapter(int), sysconfig.get_config_vars(), platform.platform()
selectors.DefaultSelector = selectors.SelectSelector
assert not any(name.startswith("remit.") for name in sys.modules)
sys.platform = "darwin"
for module, names in (
    (select, ("epoll", "EPOLLIN", "EPOLLOUT", "EPOLLHUP", "EPOLLERR")),
    (socket, ("SOCK_SEQPACKET", "SO_PASSCRED", "SCM_CREDENTIALS", "MSG_CMSG_CLOEXEC", "SOCK_CLOEXEC")),
    (os, ("memfd_create", "MFD_CLOEXEC", "pidfd_open", "pipe2", "P_PIDFD", "setns", "unshare", "eventfd",
          "sched_getaffinity", "O_PATH", "O_TMPFILE")),
):
    for name in names:
        if hasattr(module, name):
            delattr(module, name)
os.uname = lambda: os.uname_result(("Darwin", "there", "24.0", "it", "arm64"))
import remit
for name in remit.__all__:
    getattr(remit, name)
from remit.surfaces.cli import main
"""


def elsewhere(folder: Path, body: str) -> subprocess.CompletedProcess[str]:
    """Run `body` where the system says that it is macOS and has nothing that only Linux has."""
    return subprocess.run(
        [sys.executable, "-c", ELSEWHERE + body],
        cwd=folder,
        env=environment(folder),
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )


def test_elsewhere_the_library_imports_and_a_call_says_what_would_do(tmp_path: Path) -> None:
    body = """
@remit.function
def double(x: int) -> int:
    return 2 * x

try:
    remit.run_sync(double.outcome(2))
except remit.SandboxUnavailable as error:
    print(error)
"""
    done = elsewhere(tmp_path, body)
    assert done.returncode == 0, done.stderr
    assert "docker run" in done.stdout
    assert "accept_without" not in done.stdout


def test_elsewhere_the_command_line_works_and_run_says_what_would_do(tmp_path: Path) -> None:
    (tmp_path / "tools.py").write_text("def double(x: int) -> int:\n    return 2 * x\n")
    done = elsewhere(tmp_path, "main(['run', 'tools.py:double', 'x=2'])")
    assert "docker run" in clean(done, 125)
    done = elsewhere(tmp_path, "main(['run', '--json', '--', 'cat'])")
    clean(done, 125)
    assert json.loads(done.stdout)["status"] == "unavailable"
    done = elsewhere(tmp_path, "main(['audit', 'verify'])")
    assert done.returncode == 0, done.stderr
    assert elsewhere(tmp_path, "main(['audit', 'tail'])").returncode == 0


def test_elsewhere_doctor_works_and_shows_what_would_do(tmp_path: Path) -> None:
    done = elsewhere(tmp_path, "main(['doctor'])")
    clean(done, 1)
    assert "docker run" in done.stdout
    assert "NOT HELD" in done.stdout
    done = elsewhere(tmp_path, "main(['doctor', '--json'])")
    clean(done, 1)
    found = json.loads(done.stdout)
    assert found["features"] == {}
    assert not any(one["held"] for one in found["guarantees"])
