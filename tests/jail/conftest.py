"""Jails of the tests' own user: a supervisor, and how to make a spec of a few lines of source."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from remit.jail import channel, interpreter
from remit.jail.spec import Code, Ending, JailSpec
from remit.jail.supervisor import Supervisor


def spec_of(source: str, attribute: str = "go", **fields: Any) -> JailSpec:
    code = Code("module", module="tried", attribute=attribute, sources={"tried": ("/x/tried.py", source, False)})
    given = {"owner": "a", "path": interpreter.python_path(), "interpreter": interpreter.python_roots(), **fields}
    return JailSpec(code=code, **given)


def request_of(*args: Any, **kwargs: Any) -> bytes:
    return channel.pack({"args": list(args), "kwargs": kwargs})


def run_in(supervisor: Supervisor, source: str, *args: Any, attribute: str = "go", **fields: Any) -> Ending:
    spec = spec_of(source, attribute, **fields)
    template = supervisor.template(spec)
    template.ready.result(40)
    return supervisor.submit(template, request_of(*args), spec).future.result(60)


@pytest.fixture
def supervisor() -> Iterator[Supervisor]:
    made = Supervisor()
    yield made
    made.close()


@pytest.fixture(scope="module")
def shared() -> Iterator[Supervisor]:
    made = Supervisor()
    yield made
    made.close()


@pytest.fixture(scope="module")
def run(shared: Supervisor) -> Callable[..., Ending]:
    return lambda source, *args, **fields: run_in(shared, source, *args, **fields)
