#!/usr/bin/env python3
"""One command for everything, from a bare checkout: it makes its own environment, then does the work.

::

    python3 run.py [--python PYTHON] demo  [ARGS]   the main job; ARGS go to `remit demo`
    python3 run.py [--python PYTHON] test  [ARGS]   the tests; ARGS go to pytest
    python3 run.py [--python PYTHON] check [ARGS]   format, lint, types, layers, then the tests
    python3 run.py [--python PYTHON] bench [ARGS]   the figures; also written to build/bench.json

`PYTHON` is a path, or a name on PATH, of Python 3.11 or newer. The environment is `.venv` beside this file; the folder
that the variable `REMIT_VENV` names, if it is set; and a folder of the user's where the checkout cannot be written.
Only the standard library is used here, and only what Python 3.8 parses, so that an old Python can say what it lacks.
Nothing is installed outside the environment and nothing is done as another user. pip's settings and proxies are obeyed.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import stat
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

__all__ = ["main"]

ROOT = os.path.dirname(os.path.abspath(__file__))
NEEDS = (3, 11)
KNOWN = (3, 14)  # the newest that the dependencies are known to have wheels for; a newer one is the last choice
LEADS_AWAY = ("PYTHONHOME", "PYTHONPATH", "PIP_TARGET", "PIP_PREFIX", "PIP_ROOT", "PIP_PYTHON", "__PYVENV_LAUNCHER__")
STAMP = ".remit-set-up.json"
EXTRAS: dict[str, tuple[str, ...]] = {  # beside the core
    "demo": (),
    "test": ("all", "test"),
    "check": ("all", "check", "test"),
    "bench": ("all", "bench"),
}


def say(text: str) -> None:
    # stdout belongs to the command itself (`run.py demo --json`)
    print("run.py: " + text, file=sys.stderr, flush=True)


def fail(text: str) -> NoReturn:
    say(text)
    raise SystemExit(1)


def dotted(version: tuple[int, ...]) -> str:
    return ".".join(str(part) for part in version[:2])


# -- which Python ------------------------------------------------------------------------------------------------------


def version_of(python: str) -> tuple[int, int] | None:
    """The version of an interpreter, or None when it does not run (a version manager's shim may exist and refuse)."""
    code = "import sys; print('%d.%d' % sys.version_info[:2])"
    try:
        done = subprocess.run(
            [python, "-I", "-S", "-c", code],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=30,
            check=False,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    found = re.match(rb"(\d+)\.(\d+)\s*$", done.stdout)
    return (int(found.group(1)), int(found.group(2))) if found and done.returncode == 0 else None


def newer_pythons() -> Iterator[str]:
    """Interpreters on PATH whose names promise enough, the best known first; then what uv has."""
    found: dict[tuple[int, int], list[str]] = {}
    for folder in os.environ.get("PATH", os.defpath).split(os.pathsep):
        try:
            names = os.listdir(folder) if os.path.isabs(folder) else []
        except OSError:
            continue
        for name in sorted(names):
            match = re.match(r"python(\d+)\.(\d+)(\.exe)?$", name)
            if match:
                version = (int(match.group(1)), int(match.group(2)))
                if version >= NEEDS:
                    found.setdefault(version, []).append(os.path.join(folder, name))
    for version in sorted(found, key=lambda v: (v <= KNOWN, v), reverse=True):
        yield from found[version]
    uv = shutil.which("uv")
    if uv:
        words = [uv, "python", "find", "--no-python-downloads", ">=" + dotted(NEEDS)]
        done = subprocess.run(words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=False)
        if done.returncode == 0 and done.stdout.strip():
            yield os.fsdecode(done.stdout.strip())


def choose_python(asked: str | None) -> tuple[str, tuple[int, int]]:
    """The interpreter to make the environment with, and its version; ends the program when there is none."""
    if asked is not None:
        path = shutil.which(asked)
        version = version_of(path) if path else None
        if not path or not version:
            fail(f"`--python {asked}` is not a Python that runs")
        if version < NEEDS:
            fail(f"found {dotted(version)} at `{path}`, needs {dotted(NEEDS)} or newer")
        return path, version
    if sys.version_info >= NEEDS:
        # the base: run from inside `.venv`, making it anew would remove the very interpreter that does it
        return getattr(sys, "_base_executable", None) or sys.executable, sys.version_info[:2]
    for path in newer_pythons():
        version = version_of(path)
        if version and version >= NEEDS:
            say(f"found {dotted(tuple(sys.version_info[:2]))}, needs {dotted(NEEDS)}: using `{path}`")
            return path, version
    wants = dotted(NEEDS)
    return fail(
        f"found {dotted(tuple(sys.version_info[:2]))}, needs {wants} or newer, and there is none on PATH; install one "
        f"(Debian, Ubuntu: `apt install python{wants}-venv`; Fedora: `dnf install python{wants}`; without root: "
        "`uv python install 3.13`, uv is at https://docs.astral.sh/uv), then run this again"
    )


# -- where the environment goes ----------------------------------------------------------------------------------------


def home() -> str | None:
    """The user's home, if there is one that can be written. A user may have none, or another's (`sudo -u`)."""
    path = os.path.expanduser("~")
    return path if os.path.isabs(path) and os.path.isdir(path) and os.access(path, os.W_OK | os.X_OK) else None


def private_temporary() -> str:
    """A folder in the temporary one that nobody else can have prepared; the same one next time, where that is safe."""
    uid = os.getuid() if hasattr(os, "getuid") else 0
    path = os.path.join(tempfile.gettempdir(), f"remit-{uid}")
    try:
        os.mkdir(path, 0o755)
    except OSError:
        pass  # it exists, or cannot be made: looked at next
    try:
        there = os.lstat(path)
    except OSError:
        return tempfile.mkdtemp(prefix="remit-")
    if stat.S_ISDIR(there.st_mode) and there.st_uid == uid and not there.st_mode & 0o022:
        return path
    return tempfile.mkdtemp(prefix="remit-")


def writable(place: str) -> bool:
    """Whether an environment can be made at `place`: the nearest folder that exists can be written."""
    while not os.path.lexists(place):
        place = os.path.dirname(place)
    return os.path.isdir(place) and os.access(place, os.R_OK | os.W_OK | os.X_OK)


def foreign(place: str) -> bool:
    """Whether `place` holds something that is not an environment, so that emptying it would be a loss."""
    return os.path.isdir(place) and bool(os.listdir(place)) and not os.path.exists(os.path.join(place, "pyvenv.cfg"))


def places() -> Iterator[str]:
    """Where the environment may be, the best first. The last one can always be written."""
    chosen = os.environ.get("REMIT_VENV")
    if chosen:
        yield os.path.abspath(chosen)
        return
    yield os.path.join(ROOT, ".venv")
    mine = "venv-" + hashlib.sha256(os.fsencode(ROOT)).hexdigest()[:16]
    cache = os.environ.get("XDG_CACHE_HOME", "")
    if os.path.isabs(cache) and writable(cache):
        yield os.path.join(cache, "remit", mine)
    elif home():
        yield os.path.join(str(home()), ".cache", "remit", mine)
    yield os.path.join(private_temporary(), mine)


# -- what is there already ---------------------------------------------------------------------------------------------


def program(venv: str, name: str) -> str:
    return os.path.join(venv, "Scripts", name + ".exe") if os.name == "nt" else os.path.join(venv, "bin", name)


def digest_of_project() -> str:
    with open(os.path.join(ROOT, "pyproject.toml"), "rb") as file:
        return hashlib.sha256(file.read()).hexdigest()


def read_stamp(venv: str) -> dict[str, object]:
    """What was set up at `venv`, or {}. The stamp is written last and taken away first: none means not whole."""
    try:
        with open(os.path.join(venv, STAMP), encoding="utf-8") as file:
            stamp = json.load(file)
    except (OSError, ValueError):
        return {}
    # moved or copied with its checkout, an environment still points to the old place
    if not isinstance(stamp, dict) or stamp.get("venv") != venv or stamp.get("root") != ROOT:
        return {}
    return stamp


def extras_of(stamp: dict[str, object]) -> list[str]:
    extras = stamp.get("extras")
    return [str(extra) for extra in extras] if isinstance(extras, list) else []


def sound(venv: str, version: tuple[int, int] | None) -> dict[str, object]:
    """The stamp of an environment that is whole, that this user can run and that has the version wanted; else {}."""
    stamp = read_stamp(venv)
    if not stamp or (version and stamp.get("python") != dotted(version)):
        return {}
    runs = version_of(program(venv, "python"))  # its base may be unreadable for this user, upgraded or gone
    return stamp if runs and dotted(runs) == stamp.get("python") else {}


def complete(stamp: dict[str, object], extras: Sequence[str]) -> bool:
    return stamp.get("project") == digest_of_project() and set(extras) <= set(extras_of(stamp))


# -- making it ---------------------------------------------------------------------------------------------------------


def environment() -> dict[str, str]:
    """The variables for the set-up and the commands: the user's, without what would lead out of the environment."""
    env = dict(os.environ)
    for name in LEADS_AWAY:
        env.pop(name, None)
    env["PIP_USER"] = "0"  # `user = true` in somebody's pip.conf is an error in any environment
    env["PIP_NO_INPUT"] = "1"
    env["PIP_DISABLE_PIP_VERSION_CHECK"] = "1"
    if not home():
        env["PIP_NO_CACHE_DIR"] = "1"  # it would be made in a folder named `~`
    return env


def tried(words: Sequence[str], env: dict[str, str]) -> str | None:
    """Run quietly: None when it went well, else what it said."""
    try:
        done = subprocess.run(
            list(words),
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            check=False,
        )
    except OSError as error:
        return str(error)
    return None if done.returncode == 0 else done.stdout.decode("utf-8", "replace").strip() or "no output"


def system_pips(python: str, env: dict[str, str]) -> Iterator[list[str]]:
    """The pips of this machine that can install into another environment (`--python`, pip 22.3)."""
    named = [[path] for path in (shutil.which("pip3"), shutil.which("pip")) if path]
    for words in [[python, "-m", "pip"], *named]:
        try:
            done = subprocess.run(
                [*words, "--version"], env=env, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=False
            )
        except OSError:
            continue
        found = re.match(rb"pip (\d+)\.(\d+)", done.stdout)
        if done.returncode == 0 and found and (int(found.group(1)), int(found.group(2))) >= (22, 3):
            yield words


def make_anew(venv: str, python: str, version: tuple[int, int], env: dict[str, str]) -> None:
    """An environment with pip in it and nothing else; whatever was there is removed. Ends the program if none works."""
    said: list[tuple[str, str]] = []
    wrong = tried([python, "-m", "venv", "--clear", venv], env)
    if wrong is None:
        return
    said.append(("ensurepip", wrong))
    uv = shutil.which("uv")
    bare = tried([python, "-m", "venv", "--clear", "--without-pip", venv], env)
    if bare is not None:
        said.append(("venv", bare))
        if uv:
            bare = tried([uv, "venv", "--clear", "--python", python, venv], env)
            said.append(("uv venv", bare or ""))
    if bare is None and uv:
        # uv has settings of its own; where there are none, pip's say where packages come from
        hers = dict(env)
        for of_pip, of_uv in (
            ("PIP_INDEX_URL", "UV_DEFAULT_INDEX"),
            ("PIP_EXTRA_INDEX_URL", "UV_INDEX"),
            ("PIP_FIND_LINKS", "UV_FIND_LINKS"),
            ("PIP_NO_INDEX", "UV_NO_INDEX"),
            ("PIP_CERT", "SSL_CERT_FILE"),
        ):
            if of_pip in hers:
                hers.setdefault(of_uv, hers[of_pip])
        wrong = tried([uv, "pip", "install", "--quiet", "--python", program(venv, "python"), "pip"], hers)
        if wrong is None:
            return
        said.append(("uv", wrong))
    if bare is None:
        for pip in system_pips(python, env):
            wrong = tried([*pip, "--python", program(venv, "python"), "install", "--quiet", "pip"], env)
            if wrong is None:
                return
            said.append((" ".join(pip), wrong))
    for who, what in said:
        if what:
            said_it = " ".join(what.split())[:200]
            say(f"{who} could not: {said_it}")
    fail(
        f"`{python}` has no working ensurepip, and there is no uv and no pip of 22.3 or newer that could stand in; "
        f"install one (Debian, Ubuntu: `apt install python{dotted(version)}-venv`; without root: uv, "
        "https://docs.astral.sh/uv), then run this again"
    )


@contextmanager
def only_one(venv: str) -> Iterator[None]:
    """One set-up at a time. The lock is on the folder itself, which is emptied and never removed: no file is left."""
    os.makedirs(venv, exist_ok=True)
    if os.name == "nt":
        yield
        return
    import fcntl

    folder = os.open(venv, os.O_RDONLY)
    try:
        try:
            fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"another run is setting up `{venv}`: waiting for it")
            fcntl.flock(folder, fcntl.LOCK_EX)
        yield
    finally:
        os.close(folder)


def set_up(extras: Sequence[str], asked: str | None) -> str:
    """The folder of an environment that has the core and `extras`; made or mended where it must be."""
    any_will_do = asked is None and sys.version_info < NEEDS  # too old itself: what it once made is as good as any
    python, version = ("", None) if any_will_do else choose_python(asked)
    where = list(places())
    for venv in where:
        if complete(sound(venv, version), extras):
            return venv
    if any_will_do:
        python, version = choose_python(None)
    venv = next((place for place in where if writable(place)), where[0])
    if not writable(venv):
        fail(f"`{venv}` cannot be written; name another folder in the variable `REMIT_VENV`")
    if os.environ.get("REMIT_VENV") and foreign(venv):
        fail(f"`{venv}` has files that are no environment's and would be emptied; name another folder in `REMIT_VENV`")
    umask = os.umask(0o022)  # tests also run as an unprivileged user, who must be able to read it
    try:
        with only_one(venv):
            install(venv, python, version or NEEDS, extras)
    finally:
        os.umask(umask)
    return venv


def install(venv: str, python: str, version: tuple[int, int], extras: Sequence[str]) -> None:
    env = environment()
    stamp = sound(venv, version)
    if complete(stamp, extras):
        return  # the run that was waited for has done it
    wanted = sorted(set(extras) | set(extras_of(stamp)))
    what = "remit[{}]".format(",".join(wanted)) if wanted else "remit"
    try:
        os.unlink(os.path.join(venv, STAMP))
    except FileNotFoundError:
        pass
    if not stamp:
        say(f"making `{venv}` with Python {dotted(version)} (`{python}`)")
        make_anew(venv, python, version, env)
    say(f"installing {what} into `{venv}`; the first time takes a minute")
    spec = ROOT + ("[{}]".format(",".join(wanted)) if wanted else "")
    words = [program(venv, "python"), "-m", "pip", "install", "--quiet", "--prefer-binary", "--editable", spec]
    if subprocess.call(words, env=env, cwd=venv, stdin=subprocess.DEVNULL, stdout=sys.stderr) != 0:
        fail(
            f"pip could not install {what}; it needs an index or a folder of wheels (`PIP_INDEX_URL`, "
            "`PIP_FIND_LINKS`, `HTTPS_PROXY` and pip.conf are obeyed); what it said stands above"
        )
    fresh = {"venv": venv, "root": ROOT, "python": dotted(version), "project": digest_of_project(), "extras": wanted}
    half = os.path.join(venv, STAMP + ".new")
    with open(half, "w", encoding="utf-8") as file:
        json.dump(fresh, file)
    os.replace(half, os.path.join(venv, STAMP))


# -- the commands ------------------------------------------------------------------------------------------------------


def cached(venv: str, env: dict[str, str]) -> list[str]:
    """Lead the tools' caches into the environment, or off; answers what pytest needs for that."""
    folder = os.path.join(venv, ".cache")
    if not writable(folder):
        env["RUFF_NO_CACHE"] = "true"
        env["MYPY_CACHE_DIR"] = os.devnull
        return ["-p", "no:cacheprovider"]
    env.setdefault("RUFF_CACHE_DIR", os.path.join(folder, "ruff"))
    env.setdefault("MYPY_CACHE_DIR", os.path.join(folder, "mypy"))
    env.setdefault("HYPOTHESIS_STORAGE_DIRECTORY", os.path.join(folder, "hypothesis"))
    return ["-o", "cache_dir=" + os.path.join(folder, "pytest")]


def become(words: list[str], env: dict[str, str], folder: str | None = None) -> int:
    """Run the command in place of this program, so that signals and the exit status are its own."""
    if folder is not None:
        os.chdir(folder)
    if os.name == "nt":  # exec there returns to the shell before the command ends
        return subprocess.call(words, env=env)
    return os.execve(words[0], words, env)


def check(venv: str, env: dict[str, str], pytest: list[str]) -> int:
    python = program(venv, "python")
    layers = [program(venv, "lint-imports")]
    layers += ["--cache-dir", os.path.join(venv, ".cache", "layers")] if "RUFF_CACHE_DIR" in env else ["--no-cache"]
    steps = [
        ("format", [program(venv, "ruff"), "format", "--check", "."]),
        ("lint", [program(venv, "ruff"), "check", "."]),
        ("types", [python, "-m", "mypy", "--strict", "src", "run.py"]),
        ("layers", layers),
        ("tests", pytest),
    ]
    failed = []
    for name, words in steps:
        print("== {}: {}".format(name, " ".join([os.path.basename(words[0]), *words[1:]])), flush=True)
        if subprocess.call(words, env=env, cwd=ROOT) != 0:
            failed.append(name)
    print("== failed: " + ", ".join(failed) if failed else "== all good", flush=True)
    return 1 if failed else 0


def read_arguments(words: list[str]) -> tuple[str | None, str, list[str]]:
    """`--python` may stand before the command or right after it; all else after the command is the command's own."""
    usage = str(__doc__).partition("::\n")[2].partition("`PYTHON`")[0].strip("\n")
    python: str | None = None
    command = ""
    while words:
        if words[0] == "--python" and len(words) > 1:
            python, words = words[1], words[2:]
        elif words[0].startswith("--python="):
            python, words = words[0].partition("=")[2], words[1:]
        elif not command and words[0] in EXTRAS:
            command, words = words[0], words[1:]
        else:
            break
    if not command and words and words[0] in ("-h", "--help"):
        print(usage)
        raise SystemExit(0)
    if not command:
        if words:
            say(f"`{words[0]}` is not a command")
        print(usage, file=sys.stderr)
        raise SystemExit(2)
    return python, command, words


def main(words: list[str]) -> int:
    asked, command, rest = read_arguments(words)
    venv = set_up(EXTRAS[command], asked)
    env = environment()
    env["PATH"] = os.path.dirname(program(venv, "python")) + os.pathsep + env.get("PATH", os.defpath)
    if command == "demo":
        return become([program(venv, "remit"), "demo", *rest], env)  # where the user stands: FOLDER may be relative
    python = program(venv, "python")
    if command == "bench":
        return become([python, "-m", "benchmarks", *rest], env, ROOT)
    pytest = [python, "-m", "pytest", "-q", *cached(venv, env), *rest]
    return check(venv, env, pytest) if command == "check" else become(pytest, env, ROOT)


if __name__ == "__main__":
    try:
        raise SystemExit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        say("interrupted; what was half made is made anew next time")
        raise SystemExit(130) from None
