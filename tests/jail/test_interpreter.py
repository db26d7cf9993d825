from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from remit.jail import interpreter


def test_paths_beneath_another_go_with_it(tmp_path: Path) -> None:
    (tmp_path / "a/b").mkdir(parents=True)
    (tmp_path / "ab").mkdir()
    paths = [str(tmp_path / name) for name in ("a/b", "a", "ab")]
    assert interpreter.resolve(paths) == ([str(tmp_path / "a"), str(tmp_path / "ab")], [])


def test_links_on_the_way_are_made_again(tmp_path: Path) -> None:
    (tmp_path / "real/inner").mkdir(parents=True)
    (tmp_path / "one").symlink_to("real")
    (tmp_path / "two").symlink_to(tmp_path / "one/inner")
    real, links = interpreter.resolve([str(tmp_path / "two")])
    assert real == [str(tmp_path / "real/inner")]
    assert dict(map(tuple, links)) == {
        str(tmp_path / "one"): "real",
        str(tmp_path / "two"): str(tmp_path / "one/inner"),
    }


def test_a_link_within_a_root_is_there_already(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real/link").symlink_to("other")
    (tmp_path / "real/other").mkdir()
    real, links = interpreter.resolve([str(tmp_path / "real"), str(tmp_path / "real/link")])
    assert real == [str(tmp_path / "real")]
    assert links == []


def test_links_in_a_circle_end(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    interpreter.resolve([str(tmp_path / "a")])


@given(st.lists(st.lists(st.sampled_from(["a", "b", "c"]), min_size=1, max_size=4), min_size=1, max_size=8))
def test_every_path_is_beneath_one_root_and_no_root_beneath_another(parts: list[list[str]]) -> None:
    paths = ["/nowhere/" + "/".join(names) for names in parts]
    roots, links = interpreter.resolve(paths)
    assert links == []
    for path in paths:
        assert sum(path == root or path.startswith(root + "/") for root in roots) == 1
    assert not any(a != b and a.startswith(b + "/") for a in roots for b in roots)


def test_the_path_of_a_jail_is_the_librarys_not_the_projects(tmp_path: Path) -> None:
    before = list(sys.path)
    sys.path.insert(0, str(tmp_path))
    try:
        path = interpreter.python_path()
    finally:
        sys.path[:] = before
    assert str(tmp_path) not in path
    assert any(os.path.exists(os.path.join(folder, "json")) for folder in path)


def test_what_a_program_needs_besides() -> None:
    program = os.path.realpath("/bin/ls")
    needs = interpreter.program_needs(program)
    assert needs
    assert all(os.path.exists(need) for need in needs)
    assert "ld" in os.path.basename(needs[0])


def test_a_script_needs_its_interpreter_and_what_that_needs(tmp_path: Path) -> None:
    script = tmp_path / "script"
    script.write_text("#!/bin/sh\necho\n")
    needs = interpreter.program_needs(str(script))
    assert needs[0] == "/bin/sh"
    assert len(needs) == 2


def test_what_is_no_program_needs_nothing_and_a_circle_ends() -> None:
    with tempfile.TemporaryDirectory() as folder:
        odd = Path(folder, "odd")
        odd.write_bytes(b"\x7fELF\x02\x01" + b"\xff" * 100)
        assert interpreter.program_needs(str(odd)) == ()
        odd.write_bytes(f"#!{odd}\n".encode())
        assert interpreter.program_needs(str(odd)) == ()
        odd.write_bytes(b"")
        assert interpreter.program_needs(str(odd)) == ()
    with pytest.raises(OSError, match="odd"):
        interpreter.program_needs(str(odd))
