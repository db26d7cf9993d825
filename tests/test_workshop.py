"""The workshop itself: run.py on checkouts of its own, the tests' own plugin, the files that start it all.

The checkouts have a `remit` that needs nothing and builds itself, so that a whole set-up runs here without a network.
"""

from __future__ import annotations

import ast
import json
import os
import re
import shutil
import stat
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import run

ROOT = Path(__file__).resolve().parent.parent
NOBODY = 65534

PROJECT = """
[build-system]
requires = []
build-backend = "build"
backend-path = ["."]

[project]
name = "remit"
version = "0"
requires-python = ">=3.11"
"""

# The least that PEP 517 and PEP 660 ask of a build backend.
BACKEND = """
import os, zipfile

EXTRAS = "Provides-Extra: all\\nProvides-Extra: bench\\n"

def build_editable(folder, config_settings=None, metadata_directory=None):
    name = "remit-0-py3-none-any.whl"
    info = "remit-0.dist-info/"
    files = {
        "remit_here.pth": os.path.join(os.path.abspath("."), "src"),
        info + "METADATA": "Metadata-Version: 2.1\\nName: remit\\nVersion: 0\\n" + EXTRAS,
        info + "WHEEL": "Wheel-Version: 1.0\\nGenerator: test\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n",
        info + "entry_points.txt": "[console_scripts]\\nremit = said:main\\n",
    }
    files[info + "RECORD"] = "".join(f"{path},,\\n" for path in [*files, info + "RECORD"])
    with zipfile.ZipFile(os.path.join(folder, name), "w") as wheel:
        for path, text in files.items():
            wheel.writestr(path, text)
    return name

build_wheel = build_editable
"""

SAID = """
import json, os, sys
def main():
    print(json.dumps([sys.argv[1:], os.getcwd(), sys.prefix]))
    return 7
"""


def checkout(folder: Path) -> Path:
    (folder / "src").mkdir(parents=True)
    shutil.copy(ROOT / "run.py", folder)
    (folder / "pyproject.toml").write_text(PROJECT)
    (folder / "build.py").write_text(BACKEND)
    (folder / "src" / "said.py").write_text(SAID)
    (folder / "benchmarks").mkdir()
    (folder / "benchmarks" / "__main__.py").write_text("import said; raise SystemExit(said.main())")
    return folder


def do(
    tree: Path, *words: str, python: str = sys.executable, uid: int | None = None, **env: str
) -> subprocess.CompletedProcess[str]:
    """`python run.py WORDS`, in an environment that has nothing but what is named."""
    settings = {name: value for name, value in os.environ.items() if name.startswith("PIP_")}
    who = {} if uid is None else {"user": uid, "group": uid, "extra_groups": []}
    return subprocess.run(
        [python, str(tree / "run.py"), *words],
        env={"PATH": "/usr/bin:/bin", **settings, **env},
        cwd="/",
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
        **who,  # type: ignore[call-overload]
    )


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkout that is set up for `demo`, by somebody whose files nobody else can read."""
    tree = checkout(tmp_path_factory.mktemp("made") / "remit")
    old = os.umask(0o077)
    try:
        done = do(tree, "demo", HOME=str(tree.parent))
    finally:
        os.umask(old)
    assert done.returncode == 7, done.stderr
    assert json.loads(done.stdout) == [["demo"], "/", str(tree / ".venv")]
    return tree


# -- what it says to an old Python -------------------------------------------------------------------------------------


def test_it_parses_on_an_old_python_and_needs_nothing() -> None:
    source = (ROOT / "run.py").read_text(encoding="utf-8")
    tree = ast.parse(source, feature_version=(3, 8))
    imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    imported |= {str(node.module) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert {name.partition(".")[0] for name in imported} <= sys.stdlib_module_names
    assert "tomllib" not in imported


PRETEND = "import runpy, sys; sys.version_info = (3, 10, 13, 'final', 0); sys.argv = sys.argv[1:]; "
PRETEND += "runpy.run_path(sys.argv[0], run_name='__main__')"


def test_an_old_python_says_what_was_found_and_what_is_needed(tmp_path: Path) -> None:
    tree = checkout(tmp_path / "remit")
    words = [sys.executable, "-c", PRETEND, str(tree / "run.py"), "demo"]
    done = subprocess.run(words, env={"PATH": str(tmp_path)}, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "found 3.10, needs 3.11 or newer" in done.stderr
    assert "apt install" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tree / ".venv").exists()


def test_an_old_python_takes_a_newer_one_from_path(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    here = sys.version_info[:2]
    version = run.dotted(here)
    broken = tmp_path / "shims"
    broken.mkdir()
    (broken / f"python{version}").write_text("#!/bin/sh\nexit 127\n")  # as a version manager's that is not chosen
    (broken / f"python{version}").chmod(0o755)
    good = tmp_path / "bin"
    good.mkdir()
    (good / f"python{version}").symlink_to(sys.executable)
    (good / "python3.9").symlink_to(sys.executable)
    monkeypatch.setattr(run.sys, "version_info", (3, 10, 13, "final", 0))
    monkeypatch.setenv("PATH", f"{broken}{os.pathsep}relative{os.pathsep}{good}")
    assert run.choose_python(None) == (str(good / f"python{version}"), here)


@pytest.mark.parametrize(
    ("words", "status", "says"),
    [
        (["--python", "no-such-python", "demo"], 1, "`--python no-such-python` is not a Python that runs"),
        ([], 2, "python3 run.py"),
        (["dance"], 2, "`dance` is not a command"),
        (["--help"], 0, "remit demo"),
    ],
)
def test_a_wrong_word_is_named(tmp_path: Path, words: list[str], status: int, says: str) -> None:
    tree = checkout(tmp_path / "remit")
    done = do(tree, *words)
    assert (done.returncode, says in done.stderr + done.stdout) == (status, True)
    assert not (tree / ".venv").exists()


# -- the environment ---------------------------------------------------------------------------------------------------


def test_others_can_read_what_a_strict_umask_made(made: Path) -> None:
    folders = [made / ".venv", made / ".venv" / "bin", next((made / ".venv" / "lib").iterdir())]
    assert all(folder.stat().st_mode & 0o055 == 0o055 for folder in folders)
    assert (made / ".venv" / run.STAMP).stat().st_mode & 0o044 == 0o044


def test_a_good_environment_is_taken_as_it_is(made: Path) -> None:
    before = (made / ".venv" / "pyvenv.cfg").stat().st_mtime_ns
    done = do(made, "demo", "--json", "a b", HOME=str(made.parent), PIP_INDEX_URL="http://127.0.0.1:1/none")
    assert (done.returncode, done.stderr) == (7, "")
    assert json.loads(done.stdout)[0] == ["demo", "--json", "a b"]
    assert (made / ".venv" / "pyvenv.cfg").stat().st_mtime_ns == before


def test_what_is_missing_is_added_and_what_was_there_stays(made: Path) -> None:
    inode = (made / ".venv" / "pyvenv.cfg").stat().st_ino
    done = do(made, "bench", "x", HOME=str(made.parent), PYTHONPATH="/nowhere", PIP_USER="1")
    assert done.returncode == 7, done.stderr
    assert json.loads(done.stdout)[:2] == [["x"], str(made)]
    assert json.loads((made / ".venv" / run.STAMP).read_text())["extras"] == ["all", "bench"]
    assert (made / ".venv" / "pyvenv.cfg").stat().st_ino == inode
    assert do(made, "demo", HOME=str(made.parent)).stderr == ""


def break_stamp(venv: Path) -> None:
    (venv / run.STAMP).unlink()


def break_half_a_stamp(venv: Path) -> None:
    (venv / run.STAMP).write_text('{"venv": ')


def break_python(venv: Path) -> None:
    (venv / "bin" / "python").unlink()
    (venv / "bin" / "python").symlink_to("/gone/python3")


def break_everything(venv: Path) -> None:
    shutil.rmtree(venv)
    (venv / "lib").mkdir(parents=True)


def break_by_moving(venv: Path) -> None:
    stamp = json.loads((venv / run.STAMP).read_text())
    (venv / run.STAMP).write_text(json.dumps({**stamp, "venv": "/elsewhere/.venv"}))


def break_by_another_version(venv: Path) -> None:
    stamp = json.loads((venv / run.STAMP).read_text())
    (venv / run.STAMP).write_text(json.dumps({**stamp, "python": "3.99"}))


@pytest.mark.parametrize(
    "breaks",
    [break_stamp, break_half_a_stamp, break_python, break_everything, break_by_moving, break_by_another_version],
)
def test_a_broken_environment_is_not_taken(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, breaks) -> None:
    monkeypatch.setattr(run, "ROOT", str(made))
    venv = tmp_path / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(venv)], check=True)
    stamp = json.loads((made / ".venv" / run.STAMP).read_text())
    (venv / run.STAMP).write_text(json.dumps({**stamp, "venv": str(venv)}))
    assert run.complete(run.sound(str(venv), sys.version_info[:2]), ["all"])
    breaks(venv)
    assert run.sound(str(venv), sys.version_info[:2]) == {}
    assert run.sound(str(venv), None) == {}


def test_a_changed_project_is_installed_again(made: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(run, "ROOT", str(made))
    stamp = run.sound(str(made / ".venv"), None)
    assert run.complete(stamp, ["all"])
    assert not run.complete(stamp, ["all", "check"])
    monkeypatch.setattr(run, "ROOT", str(tmp_path))
    (tmp_path / "pyproject.toml").write_text(PROJECT + "# changed\n")
    assert not run.complete(stamp, ["all"])


def test_a_broken_environment_is_made_anew(made: Path) -> None:
    venv = made / ".venv"
    (venv / "left-over").write_text("")
    break_stamp(venv)
    done = do(made, "demo", HOME=str(made.parent))
    assert done.returncode == 7, done.stderr
    assert f"making `{venv}`" in done.stderr
    assert not (venv / "left-over").exists()


def test_it_goes_where_it_is_told_to(made: Path, tmp_path: Path) -> None:
    told = tmp_path / "deep" / "venv"
    done = do(made, "demo", REMIT_VENV=str(told))
    assert json.loads(done.stdout)[2] == str(told)
    full = tmp_path / "full"
    full.mkdir()
    (full / "letters.txt").write_text("keep")
    done = do(made, "demo", REMIT_VENV=str(full))
    assert done.returncode == 1
    assert "would be emptied" in done.stderr
    assert (full / "letters.txt").read_text() == "keep"


def test_a_set_up_that_fails_says_so_and_is_made_anew(tmp_path: Path) -> None:
    tree = checkout(tmp_path / "remit")
    (tree / "build.py").write_text("raise SystemExit('no')")
    done = do(tree, "demo")
    assert done.returncode == 1
    assert "pip could not install" in done.stderr
    assert not (tree / ".venv" / run.STAMP).exists()
    (tree / "build.py").write_text(BACKEND)
    assert do(tree, "demo").returncode == 7


def everybodys_python() -> str:
    """An interpreter that a plain user can run and that can make an environment; it may be another than this run's."""
    if os.geteuid() != 0:
        return sys.executable
    for python in [sys.executable, *(f"/usr/bin/python3.{minor}" for minor in (14, 13, 12, 11)), "/usr/bin/python3"]:
        words = [python, "-c", "import sys, ensurepip, venv; ensurepip.version(); sys.exit(sys.version_info < (3, 11))"]
        try:
            done = subprocess.run(words, user=NOBODY, group=NOBODY, extra_groups=[], capture_output=True, check=False)
        except OSError:
            continue
        if done.returncode == 0:
            return python
    return pytest.skip("needs a python for everybody: each one here is root's, or has no ensurepip")


def test_a_user_without_home_in_a_checkout_that_is_not_hers(tmp_path_factory: pytest.TempPathFactory) -> None:
    python = everybodys_python()
    base = tmp_path_factory.mktemp("hers")
    tree = checkout(base / "remit")
    temporary = base / "tmp"
    temporary.mkdir()
    temporary.chmod(0o1777)
    opened = [base, *base.parents]
    for folder in opened[: opened.index(Path("/tmp")) if Path("/tmp") in opened else 1]:  # pytest's own are 0700
        folder.chmod(folder.stat().st_mode | 0o055)
    tree.chmod(0o555)
    uid = NOBODY if os.geteuid() == 0 else None
    try:
        for _ in range(2):
            done = do(tree, "demo", python=python, uid=uid, TMPDIR=str(temporary), HOME="/nonexistent")
            assert done.returncode == 7, done.stderr
        assert done.stderr == ""  # found again
    finally:
        tree.chmod(0o755)
    assert not (tree / ".venv").exists()
    folder = Path(json.loads(done.stdout)[2])
    assert folder.is_relative_to(temporary / f"remit-{uid if uid is not None else os.geteuid()}")
    assert stat.S_IMODE(folder.parent.stat().st_mode) == 0o755


def test_a_temporary_folder_that_another_prepared_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run.tempfile, "tempdir", str(tmp_path))
    mine = tmp_path / f"remit-{os.getuid()}"
    assert run.private_temporary() == str(mine)
    mine.chmod(0o777)
    assert run.private_temporary() != str(mine)
    mine.rmdir()
    (tmp_path / "trap").mkdir()
    mine.symlink_to(tmp_path / "trap")
    assert run.private_temporary() not in {str(mine), str(tmp_path / "trap")}


# -- the plugin of the tests -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ci", "reason", "status", "last"),
    [
        (False, "needs a moon", 0, "not tested here: a moon"),
        (False, "needs bubblewrap: x", 0, "not tested here: bubblewrap: x (install: apt install bubblewrap)"),
        (True, "needs bubblewrap: x", 0, "not tested here: bubblewrap: x (install: apt install bubblewrap)"),
        (True, "needs a moon", 1, "not tested here: a moon"),
    ],
)
@pytest.mark.parametrize("how", ["call", "mark", "module"])
def test_a_skip_is_told_and_fails_where_it_is_not_expected(
    tmp_path: Path, ci: bool, reason: str, status: int, last: str, how: str
) -> None:
    shutil.copy(ROOT / "tests" / "conftest.py", tmp_path)
    body = {
        "call": f"import pytest\ndef test_a(): pytest.skip({reason!r})\n",
        "mark": f"import pytest\n@pytest.mark.skipif(True, reason={reason!r})\ndef test_a(): ...\n",
        "module": f"import pytest\npytest.skip({reason!r}, allow_module_level=True)\n",
    }
    (tmp_path / "test_a.py").write_text(body[how])
    (tmp_path / "test_b.py").write_text("def test_b(): ...\n")
    env = {name: value for name, value in os.environ.items() if name != "REMIT_CI"} | ({"REMIT_CI": "1"} if ci else {})
    words = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", str(tmp_path), str(tmp_path)]
    done = subprocess.run(words, env=env, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == status, done.stdout
    assert last in done.stdout.splitlines()
    assert ("unexpected skip" in done.stdout) is (status == 1)


def test_the_trail_of_a_test_is_not_the_users(tmp_path_factory: pytest.TempPathFactory) -> None:
    assert Path(os.environ["REMIT_STATE_DIR"]).is_relative_to(tmp_path_factory.getbasetemp())


# -- the files that start it -------------------------------------------------------------------------------------------


def test_ci_calls_exactly_what_a_person_calls() -> None:
    script = ROOT / ".ci" / "run"
    text = script.read_text(encoding="utf-8")
    assert subprocess.run(["bash", "-n", str(script)], check=False).returncode == 0
    assert script.stat().st_mode & 0o111
    assert "set -eu" in text
    assert "export REMIT_CI=1" in text
    assert text.rstrip().splitlines()[-1] == "python3 run.py test"


def test_make_has_a_target_for_each_command() -> None:
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert set(re.findall(r"^(\w+): ; python3 run\.py \1 \$\(ARGS\)$", text, flags=re.MULTILINE)) == set(run.EXTRAS)


def test_every_extra_that_is_installed_is_declared_and_all_is_the_rest() -> None:
    with (ROOT / "pyproject.toml").open("rb") as file:
        project = tomllib.load(file)["project"]
    extras = project["optional-dependencies"]
    assert {extra for names in run.EXTRAS.values() for extra in names} <= set(extras)
    features = set(extras) - {"all", "test", "check", "bench"}
    assert {word for name in features for word in extras[name]} <= set(extras["all"])
    assert project["requires-python"] == ">=" + run.dotted(run.NEEDS)


def test_the_container_runs_as_a_plain_user_and_asks_for_nothing() -> None:
    text = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    steps = [line.split(maxsplit=1) for line in text.splitlines() if line and not line.startswith("#")]
    assert ["USER", "remit"] in steps
    assert steps[-1] == ["CMD", '["remit", "demo"]']
    assert not re.search(r"privileged|cap-add|unconfined|sudo", text)
