"""By reference, by value, from a file, from text, or a program: each becomes a `Code`."""

from __future__ import annotations

import dis
import functools
import hashlib
import io
import operator
import pickletools
import sys
from binascii import b2a_base64
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import CodeType, FunctionType, MethodType, ModuleType
from typing import Any, Literal

import cloudpickle  # type: ignore[import-untyped]

from remit.errors import PolicyError
from remit.jail.spec import Code
from remit.shipping import sources
from remit.shipping.capture import Customs, captured, plain

__all__ = ["How", "Shipped", "from_file", "from_source", "plain", "program", "ship"]

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
        how: `reference` imports its module in the jail, `value` pickles it, `auto` takes the first where the function
            can be found by its name in an importable module.
        environment: the host's variables, whose values must not travel by value.

    Raises:
        PolicyError: it cannot be shipped, with the reason and the mend.
    """
    function = plain(function)
    place = getattr(function, "__qualname__", type(function).__name__)
    if not callable(function):
        raise PolicyError(f"a `{place}` cannot be called", place=place, remedy="give a function")
    if isinstance(function, MethodType) and not isinstance(function.__self__, (type, ModuleType)):
        raise PolicyError(
            f"`{place}` is a method, and its `self` lives here, not in a jail",
            place=place,
            remedy="write a function that takes what it needs as arguments",
        )
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


def _by_name(function: Callable[..., Any]) -> tuple[str, str] | None:
    module, name = getattr(function, "__module__", None), getattr(function, "__qualname__", "")
    if (
        not module
        or module.partition(".")[0] == "remit"
        or module == "__main__"
        or "<" in name
        or module not in sys.modules
    ):
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
    """Pickles functions that remit has wrapped as the plain ones, and asks about every object that it writes."""

    def __init__(self, file: io.BytesIO, customs: Customs) -> None:
        super().__init__(file)
        self._customs = customs
        self.imports: set[str] = set()

    def persistent_id(self, obj: Any) -> None:
        if plain(obj) is not obj:  # remit's own wrapper is not what travels
            return
        self._customs.check(f"something that it takes along (a `{type(obj).__name__}`)", obj)
        if isinstance(obj, CodeType):
            self.imports.update(_imported(obj))

    def reducer_override(self, obj: Any) -> Any:
        inner = plain(obj)
        if inner is not obj:
            return operator.getitem, ((inner,), 0)
        return super().reducer_override(obj)


def _imported(code: CodeType) -> set[str]:
    """The names of the modules that `import` statements in a function's body name."""
    return {str(step.argval) for step in dis.get_instructions(code) if step.opname == "IMPORT_NAME" and step.argval}


def _by_value(function: Callable[..., Any], place: str, environment: Mapping[str, str]) -> Shipped:
    customs = Customs(place, environment)
    takes = captured(_python_function(function), customs)
    buffer = io.BytesIO()
    pickler = _Pickler(buffer, customs)
    try:
        pickler.dump(function)
    except PolicyError:
        raise
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
    modules = {name for name in _modules_in(payload) if sources.is_project_module(name)} | pickler.imports
    code = Code(
        "pickle",
        sources=sources.of_modules(sorted(modules)),
        payload=b2a_base64(payload, newline=False).decode("ascii"),
        preload=_preload(function),
    )
    return Shipped(code, "value", takes)


def _python_function(function: Callable[..., Any]) -> Callable[..., Any]:
    """What of a callable reaches globals and cells: a partial's function, an object's `__call__`."""
    if isinstance(function, functools.partial):
        return _python_function(function.func)
    if isinstance(function, (FunctionType, MethodType)):
        return function
    method: Callable[..., Any] = getattr(function, "__call__", function)  # noqa: B004  # the method itself is wanted
    return method


def _modules_in(payload: bytes) -> set[str]:
    """The names of imported modules that stand as text in a pickle: what loading it will import is among them."""
    return {
        argument
        for _, argument, _ in pickletools.genops(payload)
        if isinstance(argument, str) and argument in sys.modules
    }
