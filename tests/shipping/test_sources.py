"""A jail sees the project's files that a module really imports, and no others."""

from __future__ import annotations

import importlib
import sys

import pytest

from remit.errors import PolicyError
from remit.shipping import sources


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A folder on `sys.path` whose modules are forgotten afterwards."""
    before = set(sys.modules)
    monkeypatch.syspath_prepend(str(tmp_path))

    def write(**files: str) -> None:
        for name, text in files.items():
            path = tmp_path.joinpath(*name.split("__slash__")).with_suffix(".py")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        importlib.invalidate_caches()

    yield tmp_path, write
    for name in set(sys.modules) - before:
        del sys.modules[name]


def test_what_is_imported_comes_along_and_what_lies_beside_does_not(project):
    folder, write = project
    write(first_of_all="import second_of_all\nimport json\n", second_of_all="", third_of_all="SECRET = 1\n")
    (folder / ".env").write_text("TOKEN=1", encoding="utf-8")
    importlib.import_module("first_of_all")
    assert set(sources.of_module("first_of_all")) == {"first_of_all", "second_of_all"}


def test_an_import_within_a_function_comes_along_before_it_was_ever_imported(project):
    _, write = project
    write(
        outer_mod="def f():\n    import lazy_pack.inner.deep\n    from lazy_pack import side\n",
        lazy_pack__slash____init__="",
        lazy_pack__slash__side="",
        lazy_pack__slash__inner__slash____init__="from . import beside",
        lazy_pack__slash__inner__slash__beside="",
        lazy_pack__slash__inner__slash__deep="",
        lazy_pack__slash__unused="",
    )
    importlib.import_module("outer_mod")
    found = set(sources.of_module("outer_mod"))
    assert "lazy_pack" not in sys.modules
    assert found == {
        "outer_mod",
        "lazy_pack",
        "lazy_pack.side",
        "lazy_pack.inner",
        "lazy_pack.inner.beside",
        "lazy_pack.inner.deep",
    }


def test_the_standard_library_installed_packages_and_remit_do_not_come_along(project):
    _, write = project
    write(uses_all="import json, remit, pytest, cloudpickle\nfrom remit import errors\n")
    importlib.import_module("uses_all")
    assert set(sources.of_module("uses_all")) == {"uses_all"}
    assert not sources.is_project_module("json")
    assert not sources.is_project_module("remit.errors")
    assert not sources.is_project_module("pytest")
    assert sources.is_project_module("uses_all")


def test_relative_imports_beyond_the_top_lead_nowhere(project):
    folder, write = project
    write(climber="from .... import secrets_of_above\nfrom ..x import y\n")
    found = sources.of_file(str(folder / "climber.py"))[1]
    assert set(found) == {"climber"}


def test_a_source_in_another_encoding_is_read_as_it_says(project):
    folder, _ = project
    (folder / "latin.py").write_bytes("# -*- coding: latin-1 -*-\nNAME = 'é'\n".encode("latin-1"))
    assert "é" in sources.of_file(str(folder / "latin.py"))[1]["latin"][1]


def test_a_file_is_never_imported_here(project):
    folder, write = project
    write(never="raise SystemExit(3)\n")
    name, found = sources.of_file(str(folder / "never.py"))
    assert name == "never"
    assert "never" not in sys.modules
    assert set(found) == {"never"}


def test_what_a_file_imports_is_looked_for_beneath_its_folder_only(tmp_path):
    (tmp_path / "outside.py").write_text("SECRET = 1\n", encoding="utf-8")
    inner = tmp_path / "inner"
    inner.mkdir()
    (inner / "main_file.py").write_text("import outside\nimport linked\nimport linked_pack.x\n", encoding="utf-8")
    (inner / "linked.py").symlink_to(tmp_path / "outside.py")
    (tmp_path / "pack_outside").mkdir()
    (tmp_path / "pack_outside" / "x.py").write_text("SECRET = 1\n", encoding="utf-8")
    (inner / "linked_pack").symlink_to(tmp_path / "pack_outside")
    assert set(sources.of_file(str(inner / "main_file.py"))[1]) == {"main_file"}


def test_folders_without_init_are_packages_as_deep_as_they_go(tmp_path):
    (tmp_path / "deep" / "er").mkdir(parents=True)
    (tmp_path / "deep" / "er" / "mod.py").write_text("", encoding="utf-8")
    (tmp_path / "main_file.py").write_text("import deep.er.mod\n", encoding="utf-8")
    assert set(sources.of_file(str(tmp_path / "main_file.py"))[1]) == {"main_file", "deep", "deep.er", "deep.er.mod"}


def test_a_mere_folder_does_not_stand_before_a_module_of_the_library(tmp_path):
    for name in ("json", "pytest"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "data.py").write_text("", encoding="utf-8")
    (tmp_path / "main_file.py").write_text("import json, pytest\n", encoding="utf-8")
    assert set(sources.of_file(str(tmp_path / "main_file.py"))[1]) == {"main_file"}


def test_a_source_that_does_not_parse_is_for_the_jail_to_say(tmp_path):
    (tmp_path / "broken.py").write_text("def (:\n", encoding="utf-8")
    assert set(sources.of_file(str(tmp_path / "broken.py"))[1]) == {"broken"}


@pytest.mark.parametrize("name", ["none.py", "text.txt"])
def test_what_is_no_python_file_is_refused(tmp_path, name):
    (tmp_path / "text.txt").write_text("", encoding="utf-8")
    with pytest.raises(PolicyError) as caught:
        sources.of_file(str(tmp_path / name))
    assert caught.value.remedy
