"""The settings in which every attack runs, and the table of what came of it."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.escape import harness
from tests.escape.harness import NOBODY, ROOT, TABLE, Setting, World

SETTINGS = {
    "root": ({}, False),
    "unprivileged": ({}, False),
    "root, no namespaces": ({"namespaces": False}, False),
    "no namespaces": ({"namespaces": False}, False),
    "refused by the kernel": ({}, True),
    "landlock 1": ({"landlock_abi": 1, "namespaces": False}, False),
    "landlock 3": ({"landlock_abi": 3, "stack_sealed": False}, False),
}


@pytest.fixture(scope="session")
def sources() -> Iterator[str]:
    """A copy of the library that every user can read."""
    folder = tempfile.mkdtemp(prefix="remit-src-")
    ignore = shutil.ignore_patterns("__pycache__", "surfaces", "agent")
    shutil.copytree(ROOT / "src" / "remit", Path(folder, "remit"), ignore=ignore)
    shutil.copy(Path(__file__).with_name("driver.py"), folder)
    for path in [Path(folder), *Path(folder).rglob("*")]:
        path.chmod(0o755 if path.is_dir() else 0o644)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="session")
def worlds() -> Iterator[dict[int, World]]:
    made = {user: World(user) for user in ({0, NOBODY} if os.getuid() == 0 else {os.getuid()})}
    yield made
    for world in made.values():
        world.close()


@pytest.fixture(scope="session", params=SETTINGS)
def setting(request: pytest.FixtureRequest, sources: str, worlds: dict[int, World]) -> Iterator[Setting]:
    simulate, refuse = SETTINGS[request.param]
    as_root = request.param.startswith("root")
    if as_root and os.getuid() != 0:
        pytest.skip("needs root: the tests run as another user")
    python = [sys.executable]
    user = os.getuid()
    if not as_root and os.getuid() == 0:
        python, user = harness.open_python(), NOBODY
        if not python:
            pytest.skip("needs a python for everybody: none is readable by an unprivileged user")
    made = Setting(request.param, python, user, simulate, refuse, sources, dict(worlds[user].bait))
    try:
        made.start()
    except EOFError:
        if not refuse:
            raise
        pytest.skip("needs user namespaces: the setting refuses them from inside one")
    yield made
    made.stop()


@pytest.fixture(scope="session")
def plain(sources: str, worlds: dict[int, World]) -> Setting:
    """No jail: the same user, the same things to attack."""
    user = os.getuid()
    return Setting("plain", [sys.executable], user, {}, False, sources, dict(worlds[user].bait))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if not TABLE:
        return
    columns = ["control", *SETTINGS]
    widths = [max(len(column), 11) for column in columns]
    terminalreporter.section("attack x setting")
    head = "  ".join(column.ljust(width) for column, width in zip(columns, widths, strict=True))
    terminalreporter.write_line(f"{'':44}{head}")
    for (file, name), row in TABLE.items():
        cells = "  ".join(row.get(c, "-")[:w].ljust(w) for c, w in zip(columns, widths, strict=True))
        terminalreporter.write_line(f"{file + ': ' + name:44.43}{cells}")
