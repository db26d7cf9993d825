"""`remit.function` and `remit.sandboxed`: one Python function with the least that it needs, on its own."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Awaitable, Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, overload

from remit.agent.holding import Declared, Holding
from remit.errors import PolicyError
from remit.model.call import Outcome
from remit.model.limits import Limits
from remit.model.security import Security
from remit.model.units import AnyDuration
from remit.runtime import ALONE, active_runtime, run_sync
from remit.shipping import plain

__all__ = ["JailedFunction", "function", "sandboxed"]


class JailedFunction:
    """A function whose calls go through the monitor and run in a jail. Calling it gives an awaitable.

    Attributes:
        __wrapped__: the plain function, which runs here and unguarded when it is called.
        declared: what was declared of it.
    """

    __remit__ = True

    def __init__(self, wrapped: Callable[..., Any], declared: Declared, holding: Holding | None = None) -> None:
        functools.update_wrapper(self, wrapped)
        self.__wrapped__ = wrapped
        self.declared = declared
        self._holding = holding
        self._base = Path.cwd() if holding is None else None

    def __call__(self, *args: Any, **kwargs: Any) -> Awaitable[Any]:
        """Call it; the awaitable gives the value, or raises (see `remit.errors`)."""
        return self._call(args, kwargs)

    async def _call(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        return (await self._held().outcome(self.declared.name, args, kwargs)).unwrap()

    async def outcome(self, *args: Any, **kwargs: Any) -> Outcome:
        """Call it; how it ended, which is never an exception for what the function did."""
        return await self._held().outcome(self.declared.name, args, kwargs)

    def _held(self) -> Holding:
        """A function that stands alone is its own principal, and holds what it was declared to need."""
        if self._holding is None:
            declared = self.declared
            security = Security(permissions=declared.permissions, deny=declared.deny)
            holding = Holding(_principal(self.__wrapped__), security, declared.limits, alone=True, base=self._base)
            holding.add(self.__wrapped__, declared)
            self._holding = holding
        return self._holding

    def __get__(self, instance: object, owner: type | None = None) -> Any:
        """Methods cannot be jailed: their `self` is the host's."""
        if instance is None:
            return self
        raise PolicyError(
            f"`{self.declared.name}` is a method, and its `self` lives here, not in a jail",
            place=getattr(self, "__qualname__", self.declared.name),
            remedy="write a function that takes what it needs as arguments, or mark it as a staticmethod first",
        )

    def __await__(self) -> Any:
        """`await agent.register_function(...)` gives the function itself, its registration recorded."""

        async def itself() -> JailedFunction:
            held = self._held()
            await held.record_pending(held.runtime())
            return self

        return itself().__await__()

    def __repr__(self) -> str:
        return f"<jailed function {self.declared.name}>"


@overload
def function(wrapped: Callable[..., Any], /) -> JailedFunction: ...
@overload
def function(
    *,
    name: str | None = None,
    description: str | None = None,
    permissions: Iterable[str] | None = None,
    deny: Iterable[str] = (),
    limits: Limits | Mapping[str, Any] | None = None,
    timeout: AnyDuration | None = None,
    ship: str = "auto",
) -> Callable[[Callable[..., Any]], JailedFunction]: ...
def function(wrapped: Callable[..., Any] | None = None, /, **options: Any) -> Any:
    """Mark a function: `@remit.function` or `@remit.function(permissions=["basic_execution"], timeout="2s")`.

    Args:
        wrapped: the function.
        options: `name`, `description` (by default its own), `permissions` (None: the configured default), `deny`,
            `limits`, `timeout`, `ship` (`auto`, `reference`, `value`).

    Raises:
        PolicyError: an option that cannot be meant.
    """
    if wrapped is not None:
        return JailedFunction(wrapped, Declared.of(wrapped))

    def mark(wrapped: Callable[..., Any]) -> JailedFunction:
        return JailedFunction(wrapped, Declared.of(wrapped, **options))

    return mark


def sandboxed(wrapped: Callable[..., Any], **options: Any) -> Callable[..., Any]:
    """A plain callable with the same signature that runs in a jail: sync for sync, async for async.

    For the tools of any framework. Options as for `function`.
    """
    inner = plain(wrapped)
    declared = Declared.of(inner, **{"name": _own_name(inner), **options})
    if isinstance(wrapped, JailedFunction):
        declared = declared.beneath(wrapped.declared)
    jailed = JailedFunction(inner, declared)
    if inspect.iscoroutinefunction(inner):

        @functools.wraps(inner)
        async def in_jail(*args: Any, **kwargs: Any) -> Any:
            return await jailed(*args, **kwargs)

        vars(in_jail)["__remit__"] = True
        return in_jail

    @functools.wraps(inner)
    def in_jail_sync(*args: Any, **kwargs: Any) -> Any:
        active_runtime()  # made here, where it can hear signals if this is the main thread
        return run_sync(jailed._call(args, kwargs))  # noqa: SLF001  # the same class's other half

    vars(in_jail_sync)["__remit__"] = True
    return in_jail_sync


def _own_name(function: Callable[..., Any]) -> str:
    """A name for a function that nobody calls by name: a lambda's, a partial's."""
    while isinstance(function, functools.partial):
        function = function.func
    name = getattr(function, "__name__", type(function).__name__)
    return name if name.isidentifier() else "function"


def _principal(function: Callable[..., Any]) -> str:
    """As whom a function acts that stands alone: functions of one name in two modules are two."""
    while isinstance(function, functools.partial):
        function = function.func
    module = getattr(function, "__module__", None) or "?"
    name = getattr(function, "__qualname__", type(function).__name__)
    return ALONE + "".join(letter if letter.isprintable() else "?" for letter in f"{module}.{name}")[-100:]
