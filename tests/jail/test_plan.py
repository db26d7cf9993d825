from __future__ import annotations

import json
import os
from base64 import b64decode
from pathlib import Path
from typing import Any

import pytest

from remit.jail import landlock, plan
from remit.jail.probe import Features
from remit.jail.spec import Code, JailSpec

FULL = Features(True, True, 7, True, True, True, True, 2, "x86_64", "6.18")
CODE = Code("module", module="m", attribute="f", sources={"m": ("m.py", "KEY = 'in the source'", False)})


def made(features: Features = FULL, **fields: Any) -> tuple[Any, Any]:
    given = {"owner": "a", "code": CODE, "environment": (("KEY", "in the environment"),), **fields}
    return plan.make(JailSpec(**given), features, 7)


def without(**fields: Any) -> Features:
    import dataclasses

    return dataclasses.replace(FULL, **fields)


def test_the_zygote_is_told_nothing_of_code_or_environment() -> None:
    full, terms = made()
    assert "in the environment" in json.dumps(full)
    assert "in the source" in json.dumps(full)
    assert "in the " not in json.dumps(terms)


def test_as_root_each_template_is_somebody_else() -> None:
    spec = JailSpec(owner="a", code=CODE)
    ids = {tuple(plan.make(spec, FULL, serial)[1]["identity"] or ()) for serial in range(50)}
    assert len(ids) == 50
    assert all(uid == gid and uid > 1_000_000_000 for uid, gid in ids)
    assert plan.make(spec, without(root=False), 1)[1]["identity"] is None


@pytest.mark.parametrize(
    ("fields", "tasks", "memory"),
    [
        ({}, 64, 256 << 20),
        ({"threads": 1}, 1, 256 << 20),
        ({"processes": 4}, 4, 64 << 20),
        ({"processes": 4, "threads": 1000}, 4, 64 << 20),
        ({"processes": 4, "code": Code("program")}, 5, 64 << 20),
    ],
)
def test_the_sum_over_the_processes_is_the_limit(fields: dict[str, Any], tasks: int, memory: int) -> None:
    _, terms = made(**fields)
    assert (terms["tasks"], terms["memory"]) == (tasks, memory)


def test_grants_become_rights(tmp_path: Path) -> None:
    for name in ("read", "write", "both"):
        (tmp_path / name).mkdir()
    read, write, both = (str(tmp_path / name) for name in ("read", "write", "both"))
    full, _ = made(read=(read, both), write=(write, both))
    rights = dict(full["paths"])
    assert rights[read] == landlock.READ
    assert rights[write] == landlock.WRITE
    assert rights[both] == landlock.READ | landlock.WRITE
    assert read in full["read_only"]
    assert set(full["writable"]) == {write, both}
    modes = {}
    for path, mode in full["granted"]:
        modes[path] = modes.get(path, 0) | mode
    assert modes == {read: os.R_OK | os.X_OK, write: os.W_OK | os.X_OK, both: os.R_OK | os.W_OK | os.X_OK}


def test_a_grant_on_a_link_means_its_target(tmp_path: Path) -> None:
    (tmp_path / "target").mkdir()
    (tmp_path / "link").symlink_to("target")
    full, _ = made(read=(str(tmp_path / "link"),))
    assert str(tmp_path / "target") in dict(full["paths"])
    assert [str(tmp_path / "link"), "target"] in full["links"]
    assert str(tmp_path / "link") in full["readable"]  # messages know it by both names


@pytest.mark.parametrize("field", ["hide", "freeze"])
def test_a_denied_path_that_is_not_there_is_an_error(tmp_path: Path, field: str) -> None:
    with pytest.raises(OSError, match="nothing"):
        made(read=(str(tmp_path),), **{field: (str(tmp_path / "nothing"),)})


def test_no_thread_where_they_cannot_be_counted() -> None:
    assert made()[0]["threads"]
    assert not made(without(call_userns=False))[0]["threads"]
    assert not made(threads=1)[0]["threads"]


def test_the_filters_are_whole_programs() -> None:
    for features in (
        FULL,
        without(namespaces=False, call_userns=False),
        without(landlock_abi=3),
        without(listener=False),
    ):
        full, terms = made(features)
        assert len(b64decode(full["filter"])) % 8 == 0
        assert terms["tail"] == bool(full["tail"])
        lean = features.namespaces and features.landlock_abi >= 6 and features.listener
        assert terms["tail"] != lean


def test_a_scratch_beside_a_path_beneath_tmp_is_named() -> None:
    folder = "/tmp"
    full, _ = made(read=(folder,), tmp=1 << 20)
    assert ["TMPDIR", "/scratch/tmp"] in full["environment"]
    full, _ = made(interpreter=("/usr",), tmp=1 << 20)
    assert ["TMPDIR", "/tmp"] in full["environment"]
    full, _ = made(read=(folder,), tmp=1 << 20, environment=(("TMPDIR", "/elsewhere"),))
    assert full["environment"] == [["TMPDIR", "/elsewhere"]]


def test_limits_without_bound_stay_within_what_the_kernel_takes() -> None:
    full, terms = made(memory=1 << 62, file_size=1 << 62)
    assert full["addresses"] < 1 << 63
    assert terms["memory"] == 1 << 62


def test_calls_with_equal_keys_share_a_template() -> None:
    one = JailSpec(owner="a", code=CODE)
    assert one.key() == JailSpec(owner="a", code=CODE, timeout=7, required=("files",)).key()
    for other in ({"owner": "b"}, {"memory": 1}, {"read": ("/",)}, {"environment": (("A", "1"),)}, {"cwd": "/usr"}):
        assert JailSpec(**{"owner": "a", "code": CODE, **other}).key() != one.key()
