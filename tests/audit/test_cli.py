from __future__ import annotations

import json
import subprocess
import threading
import unicodedata
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from hypothesis import given
from hypothesis import strategies as st

from remit.audit.keys import SigningKey
from remit.audit.writer import Trail
from remit.surfaces.cli.audit import audit
from remit.surfaces.cli.text import visible
from tests.audit.trails import event, program, tampering, write


def run(*arguments: object) -> Result:
    result = CliRunner().invoke(audit, [str(argument) for argument in arguments])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "audit.db"
    with Trail.open(path, anchor=tmp_path / "points", clock_ms=lambda: 1_700_000_000_123) as trail:
        trail.record_now(event(0))
        trail.record_now(event(1, result="denied", type="violation", enforced_by="seccomp"))
        trail.record_now(event(2, principal="agent-2", chain=("agent-1",), context={"why": "because"}))
        trail.record_now(event(3, principal="agent-2", type="outcome"))
    return path


def test_verify_says_what_is_proven_and_what_not_and_exits_0(path: Path) -> None:
    result = run("verify", path, "--anchor", path.with_name("points"))
    assert result.exit_code == 0
    for part in (
        "events        4",
        "(trusted)",
        "proven\n  - events 1 to 4",
        "not proven\n  - ",
        "2023-11-14 22:13:20.123Z",
    ):
        assert part in result.output
    assert result.output.endswith("\nok\n")


def test_verify_exits_1_on_problems_and_names_the_event(path: Path) -> None:
    with tampering(path) as connection:
        connection.execute("UPDATE event SET record = x'5b5d' WHERE seq = 3")
    result = run("verify", path)
    assert result.exit_code == 1
    assert "event 3: what is stored is not an event" in result.output
    assert "\nnot ok" in result.output


def test_verify_in_json(path: Path) -> None:
    report = json.loads(run("verify", "--json", "--trail", path).output)
    assert (report["ok"], report["events"], report["signed"]) == (True, 4, 4)
    path.write_bytes(b"")
    result = run("verify", "--json", path)
    assert result.exit_code == 1
    assert json.loads(result.output)["problems"][0][0] is None


@pytest.mark.parametrize("command", ["verify", "tail"])
def test_what_is_no_trail_is_an_error_of_one_line_and_exits_2(tmp_path: Path, command: str) -> None:
    (tmp_path / "text").write_text("hello")
    for target in ("text", "missing", "."):
        result = run(command, tmp_path / target)
        assert result.exit_code == 2
        assert result.output.startswith("error: ")
        assert result.output.count("\n") == 1
    assert run(command, tmp_path / "text", "--trail", tmp_path / "other").exit_code == 2
    assert run(command, tmp_path / "text", "--frobnicate").exit_code == 2


def test_verify_takes_a_key_from_outside(path: Path, tmp_path: Path) -> None:
    beside = path.with_suffix(".key")
    printed = next(line.split()[1] for line in run("verify", path).output.splitlines() if line.startswith("key "))
    assert run("verify", path, "--key", printed).exit_code == 0
    assert run("verify", path, "--key", beside).exit_code == 0
    (tmp_path / "key.txt").write_text(f"{printed}\n")
    beside.rename(tmp_path / "away")
    assert "(trusted)" in run("verify", path, "--key", tmp_path / "key.txt").output
    assert "(as the trail says)" in run("verify", path).output
    SigningKey.load_or_create(tmp_path / "other.key")
    assert run("verify", path, "--key", tmp_path / "other.key").exit_code == 1
    result = run("verify", path, "--key", "nonsense")
    assert result.exit_code == 2
    assert "neither a file nor a verifier key" in result.output


def test_a_second_place_that_is_not_there_is_an_error(path: Path, tmp_path: Path) -> None:
    result = run("verify", path, "--anchor", tmp_path / "nowhere")
    assert result.exit_code == 2
    assert "no second place" in result.output


def test_tail_shows_the_last_events_oldest_first(path: Path) -> None:
    lines = run("tail", path).output.splitlines()
    assert [line.split()[0] for line in lines] == ["1", "2", "3", "4"]
    assert "2023-11-14 22:13:20.123Z  denied   violation  agent-1  word_count  /data/1  [seccomp]" in lines[1]
    assert 'agent-1 > agent-2  word_count  /data/2  [monitor]  {"why": "because"}' in lines[2]
    assert [line.split()[0] for line in run("tail", "-n", 2, path).output.splitlines()] == ["3", "4"]
    assert run("tail", "-n", 0, path).output == ""


@pytest.mark.parametrize(
    ("filters", "numbers"),
    [
        (["--denied"], [2]),
        (["--principal", "agent-2"], [3, 4]),
        (["--principal", "agent-1"], [1, 2, 3]),
        (["--type", "outcome"], [4]),
        (["--type", "call", "--principal", "agent-2"], [3]),
        (["--type", "nothing"], []),
        (["-n", "1", "--type", "call"], [3]),
    ],
)
def test_tail_filters(path: Path, filters: list[str], numbers: list[int]) -> None:
    lines = run("tail", "--json", *filters, path).output.splitlines()
    assert [json.loads(line)["seq"] for line in lines] == numbers


HOSTILE = "\x1b]0;owned\x07\x1b[2J\r\n\u202egnp.exe\u2066\x9b31m\u2028\ud800\u200b\U000e0041"


def test_hostile_text_reaches_no_terminal_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "audit.db"
    with Trail.open(path) as trail:
        trail.record_now(
            event(principal=HOSTILE, action=HOSTILE, resource=HOSTILE, context={HOSTILE: HOSTILE}, chain=(HOSTILE,))
        )
    for arguments in (["tail", path], ["tail", "--json", path]):
        output = run(*arguments).output
        assert output.count("\n") == 1
        assert output.rstrip("\n").isprintable()
        assert "owned" in output
    fields = json.loads(run("tail", "--json", path).output)
    assert fields["resource"] == HOSTILE.replace("\ud800", "\\ud800")


def test_tail_follows_other_processes_until_it_is_interrupted(tmp_path: Path) -> None:
    path = tmp_path / "audit.db"
    write(path, 3)
    body = """
    from remit.surfaces.cli.audit import audit
    audit(["tail", "-n", "1", "--follow", "--denied", "--json", str(path)])
    """
    with subprocess.Popen(program(body, path), stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout
        stop = threading.Event()

        def write_on() -> None:
            with Trail.open(path) as trail:
                while not stop.wait(0.01):
                    trail.record_now(event(result="denied"))
                    trail.record_now(event())

        writer = threading.Thread(target=write_on)
        writer.start()
        try:
            numbers = [json.loads(process.stdout.readline())["seq"] for _ in range(30)]
        finally:
            stop.set()
            writer.join()
            process.send_signal(2)
        assert numbers == list(range(numbers[0], numbers[0] + 60, 2))
        process.stdout.read()
        assert process.stderr
        assert b"Traceback" not in process.stderr.read()
        assert process.wait(30) == 0


@given(st.text(max_size=300), st.integers(1, 300))
def test_visible_text_is_printable_and_bounded(text: str, limit: int) -> None:
    shown = visible(text, limit)
    assert shown.isprintable()
    assert len(shown) <= limit
    if text.isprintable() and len(text) <= limit:
        assert shown == text


def test_visible_writes_every_control_and_format_character_as_an_escape() -> None:
    assert visible("a\nb\x1b[0m") == "a\\nb\\x1b[0m"
    assert visible("\u202e\u2066\u200f") == "\\u202e\\u2066\\u200f"
    assert visible("plain, é, 漢字, 🙂") == "plain, é, 漢字, 🙂"
    for code in range(0x110000):
        character = chr(code)
        if unicodedata.category(character) in ("Cc", "Cf", "Cs", "Zl", "Zp"):
            assert character not in visible(character)
    assert visible("x" * 50, 10) == "x" * 9 + "…"
    assert visible("\x00" * 50, 10) == "\\x00\\x00\\…"
