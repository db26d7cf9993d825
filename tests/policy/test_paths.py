"""Resolving: once, at load, to what is really there."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from remit.errors import PolicyError
from remit.model.grants import GrantSet
from remit.model.permission import Grant, access
from remit.policy.paths import resolve, resolve_all, resolve_deny

SH = os.path.realpath("/bin/sh")


def texts(*grants: str) -> list[str]:
    return [str(grant) for grant in resolve_all(map(Grant.parse, grants))]


def test_symlinks_are_followed_once(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    assert texts(f"file_system:read:{tmp_path}/link") == [f"file_system:read:{os.path.realpath(tmp_path)}/real"]


def test_what_is_not_there_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "loop").symlink_to("loop")
    for name in ("nothing", "file/beneath", "loop"):
        with pytest.raises(PolicyError, match="cannot be resolved") as caught:
            texts(f"file_system:read:{tmp_path}/{name}")
        assert str(tmp_path) in str(caught.value)
        assert caught.value.remedy


def test_other_grants_stay_as_they_are() -> None:
    others = [
        "network:a.example",
        "env:A*",
        "llm",
        "basic_execution",
        "basic_execution:*",
        "file_system:tmp",
        "file_system",
    ]
    assert texts(*others) == others


def test_the_name_of_a_program_becomes_its_path() -> None:
    assert texts("basic_execution:sh") == [f"basic_execution:{SH}"]
    assert texts("basic_execution:/bin/sh") == [f"basic_execution:{SH}"]


def test_a_glob_of_names_becomes_globs_of_the_folders_that_have_some() -> None:
    found = resolve(Grant.parse("basic_execution:s*"))
    folder = os.path.realpath("/bin")
    assert f"basic_execution:{folder}/s*" in map(str, found)
    assert GrantSet(found).allows(access("basic_execution", {"program": f"{folder}/sh"}))
    assert texts(f"basic_execution:{folder}/s*&{folder}/*h") == [f"basic_execution:{folder}/*h&{folder}/s*"]


def test_a_folder_of_a_glob_is_resolved(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    (tmp_path / "real" / "tool").touch(mode=0o755)
    assert texts(f"basic_execution:{tmp_path}/link/t*") == [f"basic_execution:{os.path.realpath(tmp_path)}/real/t*"]


@pytest.mark.parametrize(
    "text",
    [
        "basic_execution:no-such-program",
        "basic_execution:no-such-*",
        "basic_execution:/usr/bin/no-such-*",
        "basic_execution:/nowhere/x",
        "basic_execution:/nowhere/x*",
        "basic_execution:/usr",
    ],
)
def test_a_program_that_is_not_there_is_told(text: str) -> None:
    with pytest.raises(PolicyError) as caught:
        texts(text)
    assert caught.value.remedy


def test_a_file_that_cannot_be_run_is_no_program(tmp_path: Path) -> None:
    (tmp_path / "text").touch(mode=0o644)
    with pytest.raises(PolicyError, match="is not a program"):
        texts(f"basic_execution:{tmp_path}/text")
    with pytest.raises(PolicyError, match="no program is matched"):
        texts(f"basic_execution:{tmp_path}/t*")


def test_a_deny_reaches_what_it_leads_to_and_what_is_not_there_yet(tmp_path: Path) -> None:
    real = os.path.realpath(tmp_path)
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    deny = resolve_deny(
        [Grant.parse(f"file_system:read:{tmp_path}/link"), Grant.parse(f"file_system:write:{tmp_path}/later")]
    )
    held = GrantSet([Grant.parse(f"file_system:read,write:{real}")], deny)
    assert not held.allows(access("file_system", {"path": f"{real}/real/x", "mode": "read"}))
    assert not held.allows(access("file_system", {"path": f"{real}/link", "mode": "read"}))
    assert not held.allows(access("file_system", {"path": f"{real}/later", "mode": "write"}))
    assert held.allows(access("file_system", {"path": f"{real}/other", "mode": "write"}))


def test_denying_a_name_denies_the_program_behind_it() -> None:
    for text in ("basic_execution:sh", "basic_execution:s*", "basic_execution:/bin/sh"):
        held = GrantSet([Grant.parse("basic_execution:*")], resolve_deny([Grant.parse(text)]))
        assert not held.allows(access("basic_execution", {"program": SH}))
        assert held.allows(access("basic_execution", {"program": "/usr/bin/env"}))
    everything = resolve_deny([Grant.parse("basic_execution:*"), Grant.parse("env"), Grant.parse("file_system:tmp")])
    assert [str(grant) for grant in everything] == ["basic_execution:*", "env", "file_system:tmp"]
