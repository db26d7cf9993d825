"""The security context and the runtime of the code that runs now, carried through async code and threads."""

from __future__ import annotations

from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING

from remit.model.principal import SecurityContext

if TYPE_CHECKING:
    from collections.abc import Iterator

    from remit.runtime import Runtime

__all__ = ["acting_as", "current_context", "current_runtime", "in_runtime"]

_context: ContextVar[SecurityContext | None] = ContextVar("remit_context", default=None)
_runtime: ContextVar[Runtime | None] = ContextVar("remit_runtime", default=None)


def current_context() -> SecurityContext | None:
    """On whose behalf the code that runs now acts, or None for the deployer's own code."""
    return _context.get()


def current_runtime() -> Runtime | None:
    """The runtime of the innermost `async with Runtime(...)` around the code that runs now, or None."""
    return _runtime.get()


@contextmanager
def acting_as(context: SecurityContext) -> Iterator[SecurityContext]:
    """Make `context` the current one."""
    token = _context.set(context)
    try:
        yield context
    finally:
        _context.reset(token)


@contextmanager
def in_runtime(runtime: Runtime) -> Iterator[Runtime]:
    """Make `runtime` the current one."""
    token = _runtime.set(runtime)
    try:
        yield runtime
    finally:
        _runtime.reset(token)
