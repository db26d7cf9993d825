"""What a function that travels by value takes along, by name and type; what must not travel is refused.

Refused: secrets (also text equal to a value of the host's environment), open files and sockets, locks, clients and
agents. The rest is recorded by name and type.
"""

from __future__ import annotations

import io
import socket
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from types import BuiltinFunctionType, CodeType, FunctionType, MethodType, ModuleType
from typing import Any

from remit.errors import PolicyError

__all__ = ["captured"]

_LEAST_SECRET = 8  # shorter values (`1`, `C.UTF-8`) stand in any text by chance
_MOST = 10_000
_HANDLES = (io.IOBase, socket.socket, type(threading.Lock()), type(threading.RLock()), threading.Thread)
_KINDS_BY_NAME = ("Client", "AsyncClient", "Session", "Connection", "Engine", "ConversableAgent", "Runtime", "Pool")
_SECRET_NAMES = ("SecretStr", "SecretBytes", "Secret")


def captured(function: Callable[..., Any], environment: Mapping[str, str]) -> dict[str, str]:
    """Return what `function` takes along: name -> type.

    Args:
        function: a Python function.
        environment: the host's, whose values must not travel.

    Raises:
        PolicyError: something that must not travel, with its name and what to do.
    """
    secrets = {value: name for name, value in environment.items() if _could_be_secret(value)}
    found: dict[str, str] = {}
    for name, value in _reached(function):
        _check(name, value, secrets, function)
        found.setdefault(name, f"{type(value).__module__}.{type(value).__qualname__}")
    return found


def _could_be_secret(value: str) -> bool:
    return len(value) >= _LEAST_SECRET and not value.startswith("/") and not value.isdigit()


def _reached(function: Callable[..., Any]) -> Iterator[tuple[str, Any]]:
    """The globals, cells and defaults of a function and of the functions among them."""
    waiting: list[Any] = [function]
    seen: set[int] = set()
    while waiting:
        current = waiting.pop()
        current = getattr(current, "__wrapped__", current)
        if isinstance(current, MethodType):
            yield "self", current.__self__
            current = current.__func__
        if not isinstance(current, FunctionType) or id(current) in seen:
            continue
        seen.add(id(current))
        pairs = [(name, current.__globals__[name]) for name in _names(current.__code__) if name in current.__globals__]
        for name, cell in zip(current.__code__.co_freevars, current.__closure__ or (), strict=True):
            try:
                pairs.append((name, cell.cell_contents))
            except ValueError:  # a cell that is not filled yet
                continue
        pairs += [(f"a default of {current.__name__}", value) for value in current.__defaults__ or ()]
        pairs += list((current.__kwdefaults__ or {}).items())
        for name, value in pairs:
            yield name, value
            inner = getattr(value, "__wrapped__", value)
            if isinstance(inner, FunctionType) and inner.__module__ == current.__module__:
                waiting.append(inner)


def _names(code: CodeType) -> Iterator[str]:
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _names(constant)


def _check(name: str, value: Any, secrets: Mapping[str, str], function: Callable[..., Any]) -> None:
    place = getattr(function, "__qualname__", "function")
    for item in _parts(value):
        if isinstance(item, (ModuleType, FunctionType, BuiltinFunctionType, type)):
            continue
        if isinstance(item, str) and item in secrets:
            raise PolicyError(
                f"`{name}` holds the value of the host's variable `{secrets[item]}`",
                place=place,
                remedy=f"grant `env:{secrets[item]}` and read it inside, or pass what is public as an argument",
            )
        kind = type(item)
        if kind.__name__ in _SECRET_NAMES:
            raise PolicyError(f"`{name}` is a secret (`{kind.__name__}`)", place=place, remedy="grant it by `env:NAME`")
        if isinstance(item, _HANDLES) or kind.__name__.endswith(_KINDS_BY_NAME):
            raise PolicyError(
                f"`{name}` is a `{kind.__module__}.{kind.__qualname__}`, which cannot travel into a jail",
                place=place,
                remedy="make it inside the function, or move the function to a module of its own",
            )


def _parts(value: Any) -> Iterable[Any]:
    """The value and what plain containers in it hold, as far as `_MOST` items."""
    waiting, count = [value], 0
    while waiting and count < _MOST:
        item = waiting.pop()
        count += 1
        yield item
        if isinstance(item, dict):
            waiting += [*item.keys(), *item.values()]
        elif isinstance(item, (list, tuple, set, frozenset)):
            waiting += list(item)
