"""By reference, by value, from a file, from text, or a program: each becomes a `Code`."""

from __future__ import annotations

import functools
import hashlib
import io
import operator
import pickletools
import sys
from binascii import b2a_base64
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import FunctionType
from typing import Any, Literal

import cloudpickle

from remit.errors import PolicyError
from remit.jail.spec import Code
from remit.shipping import sources
from remit.shipping.capture import captured

__all__ = ["How", "Shipped", "from_file", "from_source", "program", "ship"]

How = Literal["auto", "reference", "value"]

_LARGEST = 16 << 20


@dataclass(frozen=True, slots=True)
class Shipped:
    """A function ready for a jail: what runs there, how it came, and what it took along (name -> type)."""

    code: Code
    how: str
    takes: Mapping[str, str] = field(default_factory=dict)


def ship(function: Callable[..., Any], how: How = "auto", *, environment: Mapping[str, str] | None = None) -> Shipped:
    """Make a Python function ready for a jail.

    Args:
        function: a function, method, or callable object; a decorated one is unwrapped.
        how: `reference` imports its module in the jail, `value` pickles it, `auto` takes the first where the function can
            be found by its name in an importable module.
        environment: the host's variables, whose values must not travel by value.

    Raises:
        PolicyError: it cannot be shipped, with the reason and the mend.
    """
    function = plain(function)
    place = getattr(function, "__qualname__", repr(type(function).__name__))
    found = _by_name(function)
    if how == "reference" and not found:
        raise PolicyError(
            f"`{place}` cannot be imported by name", place=place, remedy='move it to a module\'s top, or ship="value"'
        )
    if found and how != "value":
        module, attribute = found
        shipped = sources.of_module(module) if sources.is_project_module(module) else {}
        code = Code("module", module, attribute, sources=shipped, preload=_preload(function))
        return Shipped(code, "reference")
    return _by_value(function, place, environment or {})


def from_file(path: str, attribute: str) -> Shipped:
    """Make `attribute` of a Python file ready that is never imported here.

    Raises:
        PolicyError: the file is not there or not Python.
    """
    name, shipped = sources.of_file(path)
    return Shipped(Code("module", name, attribute, sources=shipped, describe=True), "file")


def from_source(text: str, attribute: str) -> Shipped:
    """Make `attribute` of source text ready: text that a model wrote is only ever run in a jail."""
    name = "written_" + hashlib.sha256(text.encode()).hexdigest()[:16]
    return Shipped(Code("module", name, attribute, sources={name: (f"<{name}>", text, False)}, describe=True), "source")


def program() -> Shipped:
    """Make ready for executing a program."""
    return Shipped(Code("program"), "program")


def plain(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function beneath remit's own decorators."""
    while getattr(function, "__remit__", None) is not None and hasattr(function, "__wrapped__"):
        function = function.__wrapped__
    return function


def _by_name(function: Callable[..., Any]) -> tuple[str, str] | None:
    module, name = getattr(function, "__module__", None), getattr(function, "__qualname__", "")
    if not module or module == "__main__" or "<" in name or module not in sys.modules:
        return None
    found: Any = sys.modules[module]
    for part in name.split("."):
        found = getattr(found, part, None)
    if found is None or (found is not function and plain(found) is not function):
        return None
    file = getattr(sys.modules[module], "__file__", None)
    if file is None and getattr(sys.modules[module], "__spec__", None) is None:
        return None  # a module that was made by hand cannot be imported again
    return module, name


def _preload(function: Callable[..., Any]) -> tuple[str, ...]:
    flags = getattr(getattr(function, "__code__", None), "co_flags", 0)
    return ("asyncio",) if flags & 0x280 else ()  # CO_COROUTINE, CO_ASYNC_GENERATOR


class _Pickler(cloudpickle.Pickler):  # type: ignore[misc]  # cloudpickle has no types
    """Pickles functions that remit has wrapped as the plain ones."""

    def reducer_override(self, obj: Any) -> Any:
        inner = plain(obj) if isinstance(obj, FunctionType) or hasattr(obj, "__remit__") else obj
        if inner is not obj:
            return operator.getitem, ((inner,), 0)
        return super().reducer_override(obj)


def _by_value(function: Callable[..., Any], place: str, environment: Mapping[str, str]) -> Shipped:
    if not isinstance(function, FunctionType):
        inner = getattr(function, "func", None) if isinstance(function, functools.partial) else None
        takes = captured(inner or getattr(type(function), "__call__", function), environment)
    else:
        takes = captured(function, environment)
    buffer = io.BytesIO()
    try:
        _Pickler(buffer).dump(function)
    except Exception as error:
        text = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
        raise PolicyError(
            f"`{place}` cannot be shipped into a jail: {text}",
            place=place,
            remedy="make what it uses inside the function, or move it to a module of its own",
        ) from None
    payload = buffer.getvalue()
    if len(payload) > _LARGEST:
        raise PolicyError(
            f"`{place}` takes {len(payload)} bytes along, more than {_LARGEST}",
            place=place,
            remedy="pass large data as an argument, or grant the file that holds it",
        )
    modules = sorted(_modules_in(payload))
    code = Code(
        "pickle",
        sources=sources.of_modules([name for name in modules if sources.is_project_module(name)]),
        payload=b2a_base64(payload, newline=False).decode("ascii"),
        preload=_preload(function),
    )
    return Shipped(code, "value", takes)


def _modules_in(payload: bytes) -> set[str]:
    """The names of imported modules that stand as text in a pickle: what loading it will import is among them."""
    return {
        argument
        for _, argument, _ in pickletools.genops(payload)
        if isinstance(argument, str) and argument in sys.modules
    }
