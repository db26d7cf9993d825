"""What a function that travels by value takes along, by name and type; what must not travel is refused.

Refused: secrets (also text equal to a value of the host's environment), open files and sockets, locks, clients and
agents. The rest is recorded by name and type. Names come from a walk over globals, cells and defaults; that nothing is
missed is held by the pickler, which asks about every single object that it writes.
"""

from __future__ import annotations

import inspect
import io
import socket
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from types import BuiltinFunctionType, CodeType, FunctionType, MethodType, ModuleType
from typing import Any

from remit.errors import PolicyError

__all__ = ["Customs", "captured", "plain"]

_LEAST_SECRET = 8  # shorter values (`1`, `C.UTF-8`) stand in any text by chance
_MOST = 10_000
_HANDLES = (io.IOBase, socket.socket, type(threading.Lock()), type(threading.RLock()), threading.Thread)
_KINDS_BY_NAME = ("Client", "AsyncClient", "Session", "Connection", "Engine", "ConversableAgent", "Runtime", "Pool")
_SECRET_NAMES = ("SecretStr", "SecretBytes", "Secret")


def plain(function: Any) -> Any:
    """The function beneath remit's own decorators, and beneath no others: what those do is part of it."""
    while not isinstance(function, type) and inspect.getattr_static(function, "__remit__", None) is True:
        function = function.__wrapped__
    return function


class Customs:
    """Looks at what travels with one function, object by object.

    Args:
        place: the function's name, for messages.
        environment: the host's, whose values must not travel.
    """

    def __init__(self, place: str, environment: Mapping[str, str]) -> None:
        self._place = place
        self._secrets = {value: name for name, value in environment.items() if _could_be_secret(value)}
        self._written: dict[int, str] = {}  # text of the source itself: it is no more secret than the source

    def check(self, name: str, item: Any) -> None:
        """Look at one object.

        Raises:
            PolicyError: it must not travel; the message says what and what to do.
        """
        if isinstance(item, CodeType):
            self._written.update((id(text), text) for text in _texts(item))
            return
        if isinstance(item, (ModuleType, FunctionType, BuiltinFunctionType, type)):
            return
        if isinstance(item, (str, bytes)):
            self._check_text(name, item)
            return
        kind = type(item)
        if kind.__name__ in _SECRET_NAMES:
            raise PolicyError(
                f"{name} is a secret (`{kind.__name__}`)", place=self._place, remedy="grant it by `env:NAME`"
            )
        if isinstance(item, _HANDLES) or kind.__name__.endswith(_KINDS_BY_NAME):
            raise PolicyError(
                f"{name} is a `{kind.__module__}.{kind.__qualname__}`, which cannot travel into a jail",
                place=self._place,
                remedy="make it inside the function, or move the function to a module of its own",
            )

    def _check_text(self, name: str, item: str | bytes) -> None:
        if id(item) in self._written:
            return
        text = item if isinstance(item, str) else item.decode("utf-8", "replace")
        variable = self._secrets.get(text)
        if variable is not None:
            raise PolicyError(
                f"{name} holds the value of the host's variable `{variable}`",
                place=self._place,
                remedy=f"grant `env:{variable}` and read it inside, or pass what is public as an argument",
            )


def captured(function: Callable[..., Any], customs: Customs) -> dict[str, str]:
    """Return what `function` takes along: name -> type.

    Args:
        function: a Python function or method.
        customs: looks at each.

    Raises:
        PolicyError: something that must not travel, with its name and what to do.
    """
    found: dict[str, str] = {}
    for name, value in _reached(function, customs):
        for item in _parts(value):
            customs.check(f"`{name}`", item)
        found.setdefault(name, f"{type(value).__module__}.{type(value).__qualname__}")
    return found


def _could_be_secret(value: str) -> bool:
    return len(value) >= _LEAST_SECRET and not value.startswith("/") and not value.isdigit()


def _reached(function: Callable[..., Any], customs: Customs) -> Iterator[tuple[str, Any]]:
    """The globals, cells and defaults of a function and of the functions among them."""
    waiting: list[Any] = [function]
    seen: set[int] = set()
    while waiting:
        current = plain(waiting.pop())
        if isinstance(current, MethodType):
            yield "self", current.__self__
            current = current.__func__
        if not isinstance(current, FunctionType) or id(current) in seen:
            continue
        seen.add(id(current))
        customs.check(current.__name__, current.__code__)
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
            inner = plain(value)
            if isinstance(inner, FunctionType) and inner.__module__ == current.__module__:
                waiting.append(inner)


def _names(code: CodeType) -> Iterator[str]:
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _names(constant)


def _texts(code: CodeType) -> Iterator[Any]:
    """The text that stands in a function's own source: literals and names."""
    yield from (*code.co_names, *code.co_varnames, *code.co_freevars, *code.co_cellvars)
    yield from (code.co_name, code.co_qualname, code.co_filename)
    waiting: list[Any] = list(code.co_consts)
    while waiting:
        constant = waiting.pop()
        if isinstance(constant, (str, bytes)):
            yield constant
        elif isinstance(constant, (tuple, frozenset)):
            waiting += constant
        elif isinstance(constant, CodeType):
            yield from _texts(constant)


def _parts(value: Any) -> Iterable[Any]:
    """The value and what plain containers in it hold, as far as `_MOST` items; the pickler sees the rest."""
    waiting, count = [value], 0
    while waiting and count < _MOST:
        item = waiting.pop()
        count += 1
        yield item
        if isinstance(item, dict):
            waiting += [*item.keys(), *item.values()]
        elif isinstance(item, (list, tuple, set, frozenset)):
            waiting += list(item)
