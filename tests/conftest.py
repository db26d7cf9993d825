"""What every test has, and what a skip may be.

A skip says what this machine lacks: `pytest.skip("needs FEATURE: ...")`. They are gathered into one last line, `not
tested here: ...`, with how to install what can be installed. Where everything is promised to be there (`REMIT_CI=1`), a
skip that `EXPECTED_SKIPS` does not name fails the run: a test that is quietly skipped everywhere holds nothing.
"""

from __future__ import annotations

import os
from collections.abc import Generator, Iterator
from pathlib import Path

import hypothesis
import pytest

# What cannot be had even where servers are installed as root: how the reason begins -> why it may be missing there.
EXPECTED_SKIPS = {
    "needs a kernel without ": "one kernel either offers a feature or does not: both ways cannot be tested on it",
    "needs a python for everybody": "the only interpreter may lie in a folder that an unprivileged user cannot enter",
    "needs another python": "the machine may have one Python only; the versions are run one after the other",
    "needs bubblewrap": "a container may refuse it the namespaces that it is made of",
    "needs cgroup": "a container's cgroups are read-only",
    "needs landlock": "the kernel of the machine is not ours to choose",
    "needs mount": "a container may refuse mounts",
    "needs user namespaces": "a container may refuse them, as Ubuntu's AppArmor does",
    "needs namespaces": "a container may refuse them, as Ubuntu's AppArmor does",
}

# How the reason begins -> what to install; shown at the end of a run.
INSTALL = {
    "needs bubblewrap": "apt install bubblewrap",
    "needs uv": "https://docs.astral.sh/uv",
}

SKIPS = pytest.StashKey[list[tuple[str, str]]]()


def pytest_configure(config: pytest.Config) -> None:
    config.stash[SKIPS] = []
    # No deadline: how long an example takes says nothing on a shared machine. Under CI the same examples each time.
    ci = os.environ.get("REMIT_CI") == "1"
    writable = os.access(config.rootpath, os.W_OK) or "HYPOTHESIS_STORAGE_DIRECTORY" in os.environ
    hypothesis.settings.register_profile(
        "remit",
        deadline=None,
        derandomize=ci,
        suppress_health_check=[hypothesis.HealthCheck.too_slow],
        **({} if writable and not ci else {"database": None}),
    )
    hypothesis.settings.load_profile("remit")


def expected(reason: str) -> bool:
    return any(reason.startswith(start) for start in EXPECTED_SKIPS)


class Skips:
    """Gathers the skips of a run, and decides what they are worth."""

    def __init__(self, config: pytest.Config) -> None:
        self.config = config

    def note(self, report: pytest.TestReport | pytest.CollectReport) -> None:
        if not report.skipped:
            return
        if hasattr(report, "wasxfail"):  # an expected failure is a promise that is not kept
            reason = f"expected to fail: {report.wasxfail}"
        else:
            where = report.longrepr
            reason = where[2] if isinstance(where, tuple) else str(where)
        self.config.stash[SKIPS].append((report.nodeid, reason.removeprefix("Skipped: ")))

    pytest_runtest_logreport = note
    pytest_collectreport = note

    def unexpected(self) -> list[tuple[str, str]]:
        if os.environ.get("REMIT_CI") != "1":
            return []
        return [(node, reason) for node, reason in self.config.stash[SKIPS] if not expected(reason)]

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> Generator[None]:
        if self.unexpected() and session.exitstatus in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED):
            session.exitstatus = pytest.ExitCode.TESTS_FAILED
        yield

    @pytest.hookimpl(trylast=True)
    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        for node, reason in self.unexpected():
            terminalreporter.write_line(f"unexpected skip: {node}: {reason}", red=True)
        reasons = sorted({reason for _, reason in self.config.stash[SKIPS]})
        if reasons:
            terminalreporter.write_line("not tested here: " + "; ".join(told(reason) for reason in reasons))


def told(reason: str) -> str:
    how = next((how for start, how in INSTALL.items() if reason.startswith(start)), "")
    return f"{reason.removeprefix('needs ')} (install: {how})" if how else reason.removeprefix("needs ")


@pytest.hookimpl(trylast=True)
def pytest_sessionstart(session: pytest.Session) -> None:
    session.config.pluginmanager.register(Skips(session.config), "remit-skips")


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="session", autouse=True)
def state_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The run's own state: the audit trail of a test never goes into the user's."""
    folder = tmp_path_factory.mktemp("state")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("REMIT_STATE_DIR", str(folder))
        yield folder
