"""The rules of the house: what may be imported where, how long a file may be, what never stays in the tree.

Each check is a function of a folder or a text, and is first shown to find what it looks for.
"""

from __future__ import annotations

import ast
import io
import json
import os
import re
import subprocess
import sys
import tokenize
import tomllib
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

ROOT = Path(__file__).resolve().parent.parent
SRC = ROOT / "src"
REMIT = SRC / "remit"
# The plan said about 2,000 lines for the jail; what it must do takes more (docs/adr/0002). Counted without docstrings,
# comments and blank lines.
JAIL_LINES = 3_450
FILE_LINES = 700


def sources(folder: Path = REMIT) -> list[Path]:
    return sorted(path for path in folder.rglob("*.py") if "__pycache__" not in path.parts)


def tree_files() -> Iterator[Path]:
    """The files that are, or could be, tracked: git need not be there, nor trust this user."""
    made = {".git", ".venv", "build", "dist", "__pycache__", ".hypothesis", "node_modules"}
    made |= {".pytest_cache", ".mypy_cache", ".ruff_cache", ".import_linter_cache"}
    for folder, folders, names in os.walk(ROOT):
        folders[:] = sorted(name for name in folders if name not in made)
        for name in sorted(names):
            path = Path(folder, name)
            if path.is_file() and not path.is_symlink():
                yield path


def nothing(found: list[str]) -> None:
    assert not found, "\n" + "\n".join(found)


def text_of(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace")


# -- the closure of the jail -------------------------------------------------------------------------------------------

CLOSURE = """
import importlib, json, pkgutil, sys
sys.path.insert(0, sys.argv[1])
jail = importlib.import_module("remit.jail")
for module in pkgutil.walk_packages(jail.__path__, "remit.jail."):
    importlib.import_module(module.name)
print(json.dumps(sorted(sys.modules)))
"""


def closure(src: Path) -> tuple[set[str], set[str]]:
    """What importing every module of remit.jail loads: all, and what it should not. Without any site folder."""
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", CLOSURE, str(src)], capture_output=True, text=True, check=False, env={}
    )
    assert done.returncode == 0, done.stderr
    loaded = set(json.loads(done.stdout))
    allowed = {"remit", "remit.errors", "remit.jail", "__main__"}
    strangers = {
        name
        for name in loaded
        if name not in allowed
        and not name.startswith("remit.jail.")
        and name.partition(".")[0] not in sys.stdlib_module_names
    }
    return loaded, strangers


def test_the_jail_loads_the_standard_library_itself_and_the_errors() -> None:
    loaded, strangers = closure(SRC)
    assert any(name.startswith("remit.jail.") for name in loaded)
    assert strangers == set()


@pytest.mark.parametrize("line", ["import remit.model", "import importlib; importlib.import_module('remit.model')"])
def test_the_closure_shows_a_stranger(tmp_path: Path, line: str) -> None:
    for folder in ("remit", "remit/jail", "remit/model"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "__init__.py").write_text("")
    (tmp_path / "remit/jail/late.py").write_text(line)
    assert closure(tmp_path)[1] == {"remit.model"}


def imports(source: str) -> set[str]:
    """Every module that a file imports by statement, wherever the statement stands."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found |= {node.module} if node.module != "remit" else {f"remit.{alias.name}" for alias in node.names}
    return found


def within(module: str, *packages: str) -> bool:
    return any(module == package or module.startswith(package + ".") for package in packages)


def test_the_jail_names_no_other_module_even_in_a_function() -> None:
    for path in sources(REMIT / "jail"):
        for module in imports(text_of(path)):
            top = module.partition(".")[0]
            assert top in sys.stdlib_module_names or within(module, "remit.jail", "remit.errors"), f"{path}: {module}"


def test_what_runs_inside_a_jail_names_nothing_of_the_host() -> None:
    inside = [REMIT / "inside.py", *sources(REMIT / "inside")]
    for path in (path for path in inside if path.exists()):
        for module in imports(text_of(path)):
            if within(module, "remit"):
                assert within(module, "remit.inside", "remit.jail", "remit.errors"), f"{path}: {module}"


# -- bans, each with its one home --------------------------------------------------------------------------------------

STARTS = {f"os.{name}" for name in ("system", "popen", "startfile")}
STARTS |= {"subprocess", "pty.spawn", "asyncio.create_subprocess_exec", "asyncio.create_subprocess_shell"}
# What -> its names, and their homes. jail/guest.py runs in the jail, where the environment is the call's own.
BANS: dict[str, tuple[set[str], tuple[str, ...]]] = {
    "raw system calls": ({"ctypes", "_ctypes", "cffi"}, ("jail/_syscall_unsafe.py",)),
    "the environment": (
        {"os.environ", "os.environb", "os.getenv", "os.getenvb", "os.putenv"},
        ("config.py", "jail/guest.py"),
    ),
    "starting programs": (STARTS, ("jail/", "surfaces/cli/")),
    "a clock that can be set": ({"time.time"}, ()),
    # inside.py runs in the jail: there a function that travelled by value is loaded, and nowhere else.
    "code from data": ({"pickle", "marshal", "shelve", "dill"}, ("inside.py",)),
}


def names_used(source: str) -> set[str]:
    """Dotted names that a file uses, through aliases, `from` imports and import functions with a constant name."""
    tree = ast.parse(source)
    stands_for: dict[str, str] = {}
    used: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                used.add(alias.name)
                stands_for[alias.asname or alias.name.partition(".")[0]] = (
                    alias.name if alias.asname else alias.name.partition(".")[0]
                )
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            used.add(node.module)
            for alias in node.names:
                used.add(f"{node.module}.{alias.name}")
                stands_for[alias.asname or alias.name] = f"{node.module}.{alias.name}"
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            parts: list[str] = []
            inner: ast.expr = node
            while isinstance(inner, ast.Attribute):
                parts.append(inner.attr)
                inner = inner.value
            if isinstance(inner, ast.Name) and inner.id in stands_for:
                used.add(".".join([stands_for[inner.id], *reversed(parts)]))
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if called in {"__import__", "import_module"}:
                used.add(str(node.args[0].value))
    return used


def breaches(folder: Path) -> list[str]:
    found = []
    for path in sources(folder):
        place = path.relative_to(folder).as_posix()
        used = names_used(text_of(path))
        for what, (names, homes) in BANS.items():
            if any(place == home or (home.endswith("/") and place.startswith(home)) for home in homes):
                continue
            found += [f"{place}: {what}: {name}" for name in sorted(used) if within(name, *names)]
    return found


def test_dangerous_names_stay_in_their_homes() -> None:
    nothing(breaches(REMIT))


@pytest.mark.parametrize(
    "line",
    [
        "import ctypes",
        "import ctypes.util as u",
        "from ctypes import CDLL",
        "x = __import__('ctypes')",
        "import importlib\nimportlib.import_module('subprocess')",
        "import os\nos.environ['A']",
        "import os as o\ndef f(): return o.environ.get('A')",
        "from os import getenv as g",
        "import os\nos.system('true')",
        "from subprocess import run",
        "from asyncio import create_subprocess_exec",
        "import time\ndef f(clock=time.time): ...",
        "from time import time",
        "import pickle",
    ],
)
def test_the_bans_find_each_way_in(tmp_path: Path, line: str) -> None:
    (tmp_path / "monitor.py").write_text(line)
    assert breaches(tmp_path)


def test_the_bans_let_their_homes_and_lookalikes_be(tmp_path: Path) -> None:
    (tmp_path / "config.py").write_text("import os\nos.environ")
    (tmp_path / "jail").mkdir()
    (tmp_path / "jail/_syscall_unsafe.py").write_text("import ctypes")
    (tmp_path / "monitor.py").write_text("import os, time\ntime.time_ns()\nos.path\nclass A: environ = 1\nA.environ")
    assert breaches(tmp_path) == []


# -- state, size, what is left undone ----------------------------------------------------------------------------------


def mutable_state(source: str) -> list[str]:
    """Module-level names that hold something mutable and do not say by capitals that nobody changes them; `global`."""
    found = [f"{node.lineno}: global" for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Global)]
    makers = {"list", "dict", "set", "bytearray", "defaultdict", "OrderedDict", "Counter", "deque", "WeakKeyDictionary"}
    for node in ast.parse(source).body:
        if not isinstance(node, ast.Assign | ast.AnnAssign) or node.value is None:
            continue
        value = node.value
        called = value.func if isinstance(value, ast.Call) else None
        maker = called.attr if isinstance(called, ast.Attribute) else getattr(called, "id", "")
        displays = ast.List | ast.Dict | ast.Set | ast.ListComp | ast.DictComp | ast.SetComp
        if not isinstance(value, displays) and maker not in makers:
            continue
        for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
            name = getattr(target, "id", "")
            if name != "__all__" and not (name.lstrip("_").isupper() and not isinstance(value, ast.Call)):
                found.append(f"{node.lineno}: {name}")
    return found


def test_no_module_holds_state() -> None:
    nothing([f"{path}:{state}" for path in sources() for state in mutable_state(text_of(path))])


def test_state_is_found() -> None:
    assert mutable_state("cache = {}") == ["1: cache"]
    assert mutable_state("SEEN: set[int] = set()") == ["1: SEEN"]
    assert mutable_state("def f():\n    global x\n    x = 1") == ["2: global"]
    assert mutable_state("__all__ = []\nNAMES = {'a': 1}\nX = frozenset()") == []


def lines(path: Path) -> int:
    return text_of(path).count("\n")


def code_lines(path: Path) -> int:
    """Lines that hold code: no docstrings, comments or blank lines."""
    source = text_of(path)
    told: set[int] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and ast.get_docstring(
            node
        ):
            first = node.body[0]
            told.update(range(first.lineno, (first.end_lineno or first.lineno) + 1))
    held: set[int] = set()
    empty = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in empty:
            held.update(range(token.start[0], token.end[0] + 1))
    return len(held - told)


def test_no_file_is_too_long_to_read() -> None:
    generated = {REMIT / "jail" / "_uapi.py"}
    nothing([f"{path}: {lines(path)}" for path in sources() if path not in generated and lines(path) > FILE_LINES])


def test_the_jail_can_be_read_in_one_sitting() -> None:
    """What a person reads to trust the jail: its Python, without the constants that a script took from the headers."""
    read = {path.name: code_lines(path) for path in sources(REMIT / "jail") if path.name != "_uapi.py"}
    assert sum(read.values()) <= JAIL_LINES, read


# one letter in brackets, so that no line of this file is what it looks for
UNDONE = re.compile(r"\b(TO[D]O|FIX[M]E|XX[X])\b|raise NotImplemented[E]rror|\bpass  # (later|for now)")


def test_nothing_is_left_undone() -> None:
    assert UNDONE.search(f"# {'odot'[::-1].upper()}: enforce")
    found = []
    for path in [*sources(), *sources(ROOT / "tests"), *sources(ROOT / "benchmarks"), ROOT / "run.py"]:
        found += [f"{path}:{n}: {line}" for n, line in enumerate(text_of(path).splitlines(), 1) if UNDONE.search(line)]
    nothing(found)


# -- what never stays in the tree --------------------------------------------------------------------------------------

AUTHORSHIP = re.compile(
    r"co-[a]uthored-by|generated (?:by|with) (?:an? )?(?:ai|llm|assistant|chat)\b|as an [a]i (?:language )?model",
    re.IGNORECASE,
)
PUBLIC = {"", "pypi.org", "files.pythonhosted.org", "localhost", "127.0.0.1"}


def machine_words() -> list[str]:
    """What betrays the machine that this runs on: the checkout's place, its owner's folders, its package hosts."""
    words = []
    if len(ROOT.parts) > 2:  # not `/app`, which is any container's and a word besides
        words.append(str(ROOT))
    home = os.path.expanduser("~")
    if os.path.isabs(home) and len(home) > 1:
        words += [f"{home}/.{name}" for name in ("cache", "config", "local", "pyenv", "cargo", "venv")]
    for name, value in os.environ.items():
        if re.fullmatch(r"(PIP|UV)_.*(INDEX|LINKS).*|https?_proxy", name, re.IGNORECASE):
            for url in value.split():
                host = urlsplit(url).hostname or ""
                words.append(host if host not in PUBLIC else url if url.startswith("/") else "")
    return [word for word in words if word]


def test_no_file_names_this_machine_or_who_wrote_it() -> None:
    assert AUTHORSHIP.search("Co-{}: x".format("Authored-By"))
    words = machine_words()
    found = []
    for path in tree_files():
        text = text_of(path)
        found += [f"{path}: {word}" for word in words if word in text]
        found += [f"{path}: {match.group()}" for match in AUTHORSHIP.finditer(text)]
    nothing(found)


def test_no_room_has_a_name_that_says_nothing() -> None:
    empty = {"utils", "util", "helpers", "helper", "core", "manager", "misc", "common"}
    assert [
        str(p) for p in tree_files() if {q.lower() for q in p.relative_to(ROOT).with_suffix("").parts} & empty
    ] == []


# -- reasons -----------------------------------------------------------------------------------------------------------


def without_reason(pyproject: str) -> list[str]:
    """Lines of ruff's ignore lists that ignore a rule and say no reason."""
    start = pyproject.index("[tool.ruff.lint]")
    rules = re.compile(r'^\s*"[A-Z]+[0-9]*",\s*(?P<reason># \S.*)?$')
    matches = ((n, rules.match(line)) for n, line in enumerate(pyproject[start:].splitlines()))
    return [f"{n}: {match.group()}" for n, match in matches if match and not match["reason"]]


def test_every_ignored_rule_has_its_reason_beside_it() -> None:
    assert without_reason('[tool.ruff.lint]\nignore = [\n    "S101",\n    "S102", # why\n]') == ['2:     "S101",']
    text = text_of(ROOT / "pyproject.toml")
    assert without_reason(text) == []
    lint = tomllib.loads(text)["tool"]["ruff"]["lint"]
    ignored = [*lint["ignore"], *(code for codes in lint["per-file-ignores"].values() for code in codes)]
    named = re.findall(r'^\s*"([A-Z]+[0-9]*)",\s*# \S', text, flags=re.MULTILINE)
    assert sorted(named) == sorted(ignored)  # each stands on a line of its own, where its reason is seen


INLINE = re.compile(r"#\s*noqa\b(?P<codes>:\s*[A-Z]+[0-9]+(?:,\s*[A-Z]+[0-9]+)*)?(?P<rest>.*)")


def unexplained(source: str) -> list[str]:
    """Ignored lint rules without a code, or without a reason after them or in a comment on the line above."""
    found, before = [], ""
    for n, line in enumerate(source.splitlines(), 1):
        match = INLINE.search(line)
        if match and not (match["codes"] and (re.search(r"\w{3}", match["rest"]) or before.lstrip().startswith("#"))):
            found.append(f"{n}: {line.strip()}")
        before = line
    return found


def test_every_inline_noqa_has_its_reason_beside_it() -> None:
    ignore = "#noqa"
    assert unexplained(f"x = 1  {ignore}")
    assert unexplained(f"x = 1  {ignore}: S101")
    assert not unexplained(f"x = 1  {ignore}: S101 - the point of the test")
    assert not unexplained(f"# the point of the test\nx = 1  {ignore}: S101")
    nothing([f"{path}:{line}" for path in [*sources(), ROOT / "run.py"] for line in unexplained(text_of(path))])


# -- decisions ---------------------------------------------------------------------------------------------------------

SECTIONS = ["Context and problem", "Options", "Decision", "Consequences"]


def test_decisions_are_numbered_without_gaps_and_have_their_sections() -> None:
    pages = sorted(path for path in (ROOT / "docs" / "adr").glob("*.md") if path.name != "README.md")
    assert [path.name[:5] for path in pages] == [f"{n:04d}-" for n in range(len(pages))]
    for path in pages:
        text = text_of(path)
        assert text.startswith(f"# {path.name[:4]}. "), path
        assert re.findall(r"^## (.+)$", text, flags=re.MULTILINE) == SECTIONS, path
        assert re.search(r"^- Status: \S", text, flags=re.MULTILINE), path
        assert re.search(r"^- Held by: \S", text, flags=re.MULTILINE), path
