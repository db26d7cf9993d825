from __future__ import annotations

import json
import os
import pty
import subprocess
from pathlib import Path
from typing import Any

import pytest

from remit.jail.probe import GUARANTEES, Features, guarantees
from remit.jail.supervisor import Supervisor
from remit.policy.compile import required
from remit.surfaces.cli import doctor
from tests.surfaces.cli.programs import clean, command, environment, remit, unprivileged  # noqa: F401  # a fixture


def found(cwd: Path, *arguments: object, **options: Any) -> dict[str, Any]:
    done = remit("doctor", "--json", *arguments, cwd=cwd, **options)
    clean(done, 0 if json.loads(done.stdout)["ok"] else 1)
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def test_it_shows_what_a_zygote_finds(tmp_path: Path) -> None:
    answer = found(tmp_path)
    supervisor = Supervisor()
    features = supervisor.features
    supervisor.close()
    assert answer["features"]["landlock_abi"] == features.landlock_abi
    assert answer["tier"] == features.tier
    held = guarantees(features)
    assert {one["name"]: one["held"] for one in answer["guarantees"]} == {name: held[name].held for name in GUARANTEES}
    assert [one["id"] for one in answer["guarantees"]] == [f"G{n}" for n in range(1, len(GUARANTEES) + 1)]
    assert {one["name"] for one in answer["guarantees"] if one["required"]} == set(required())
    assert answer["ok"] == all(held[name].held for name in required())
    assert answer["audit_trail"] == str(tmp_path / "s" / "audit.db")


def test_it_changes_nothing(tmp_path: Path) -> None:
    found(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_it_works_for_somebody_without_privileges(unprivileged: Any) -> None:  # noqa: F811  # the fixture
    folder, options = unprivileged
    answer = found(folder, **options)
    assert answer["features"]["root"] is False
    assert answer["problems"] == []


def test_plain_text_shows_each_guarantee(tmp_path: Path) -> None:
    done = remit("doctor", cwd=tmp_path)
    assert "\x1b" not in done.stdout
    lines = done.stdout.splitlines()
    for text in GUARANTEES.values():
        number, _, promise = text.partition(": ")
        assert any(line.split()[:1] == [number] and line.endswith(promise) for line in lines)
    assert lines[-1] == ("ok" if done.returncode == 0 else "not ok")


def test_on_a_terminal_it_is_a_table_in_colour(tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    env = environment(tmp_path, TERM="xterm", COLUMNS="160")
    with subprocess.Popen(
        command("doctor"), stdout=theirs, stderr=theirs, stdin=theirs, cwd=tmp_path, env=env
    ) as process:
        os.close(theirs)
        text = b""
        try:
            while data := os.read(ours, 4096):
                text += data
        except OSError:  # the end, as a pseudo-terminal tells it
            pass
    os.close(ours)
    assert process.returncode in (0, 1)
    assert b"\x1b[" in text
    assert b"G14" in text


def test_a_policy_file_is_named_or_what_is_wrong_with_it(tmp_path: Path) -> None:
    (tmp_path / "remit.yaml").write_text("version: 1\n")
    assert found(tmp_path)["policy"] == str(tmp_path / "remit.yaml")
    (tmp_path / "remit.yaml").write_text("version: 1\npermisions: {}\n")
    answer = found(tmp_path)
    assert not answer["ok"]
    assert "remit.yaml:2" in answer["problems"][0][0]
    assert "permissions" in answer["problems"][0][1]
    answer = found(tmp_path, "--policy", "nowhere.yaml")
    assert "nowhere.yaml" in answer["problems"][0][0]


def test_a_state_folder_that_others_may_use_is_a_problem(tmp_path: Path) -> None:
    (tmp_path / "s").mkdir()
    (tmp_path / "s").chmod(0o777)
    answer = found(tmp_path)
    assert not answer["ok"]
    assert "others may use" in answer["problems"][0][0]


def test_what_is_not_held_is_told_with_its_remedy(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    without = Features(supported=True, landlock_abi=0, listener=True, cores=1, machine="x86_64", kernel="5.0")
    monkeypatch.setattr(doctor, "_features", lambda: (without, ""))
    findings = doctor._find(None)
    assert not findings.ok
    doctor._show_plain(findings)
    text = capsys.readouterr().out
    assert "G1   NOT HELD  files" in text
    assert "G2   not held  file_metadata" in text
    assert "G1, G4, G10: no landlock; calls are refused\n  help: use Linux 5.13" in text
    assert "G2, G14: no mount namespaces; calls run without it\n  help: allow unprivileged user namespaces" in text
    assert text.endswith("not ok\n")


def test_missing_namespaces_alone_are_fine(monkeypatch: pytest.MonkeyPatch) -> None:
    without = Features(supported=True, landlock_abi=7, listener=True, cores=1, machine="x86_64", kernel="6.8")
    monkeypatch.setattr(doctor, "_features", lambda: (without, ""))
    assert doctor._find(None).ok


def test_a_zygote_that_does_not_start_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_features", lambda: (Features(), "zygote (it said nothing)"))
    findings = doctor._find(None)
    assert not findings.ok
    assert {one.missing for one in findings.guarantees} == {"zygote (it said nothing)"}
