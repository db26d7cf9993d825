"""What remit is inside a jail: the loader of functions that travel by value, and an inert `remit` for a user's module.

A module that is imported in a jail often decorates functions and builds agents at its top. In there `remit.function`
returns the plain function, and an agent or a runtime is an object on which every name is inert.
"""

from __future__ import annotations

import sys
from binascii import a2b_base64

TYPE_CHECKING = False
if TYPE_CHECKING:  # every page that the zygote imports is copied at each fork
    from collections.abc import Callable
    from types import ModuleType
    from typing import Any

__all__ = ["describe", "is_inside", "load_pickle", "prepare"]

# A module names these in `except` and as bases, where only a class will do.
_ERRORS = (
    "AuditError Crashed Denied FunctionRaised Killed LimitExceeded MemoryLimit PolicyError RateLimited RemitError "
    "SandboxUnavailable TimeLimit ValidationFailed"
)


class _Inert:
    """Stands for an agent, a runtime, a limit, ... Calling it with one function returns that function.

    It bears what the top of a module does with such things: annotations, base classes, `with`, a loop over them.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:  # noqa: ARG002  # a subclass's call of it may have any
        self.__name__ = args[0] if len(args) == 1 and isinstance(args[0], str) else "remit"

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return _Inert(f"{self.__name__}.{name}")

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if len(args) == 1 and not kwargs and callable(args[0]) and not isinstance(args[0], (_Inert, type)):
            return args[0]
        return _Inert(self.__name__)

    def __mro_entries__(self, bases: tuple[Any, ...]) -> tuple[type, ...]:
        return (_Inert,)

    def __instancecheck__(self, instance: object) -> bool:
        return False

    def __getitem__(self, item: object) -> _Inert:
        return self

    def __or__(self, other: object) -> _Inert:
        return self

    __ror__ = __or__

    def __iter__(self) -> Any:
        return iter(())

    def __enter__(self) -> _Inert:  # noqa: PYI034  # `typing` costs each call its pages
        return self

    def __exit__(self, *exception: object) -> None:
        """Nothing was entered."""

    def __repr__(self) -> str:
        return f"<{self.__name__}, inert inside a jail>"


class _InertModules:
    """Finds `remit.anything`: what the host's package has is not here."""

    def find_spec(self, name: str, path: object = None, target: object = None) -> Any:  # noqa: ARG002  # its protocol
        if not name.startswith("remit."):
            return None
        from importlib.machinery import ModuleSpec

        return ModuleSpec(name, self, is_package=True)  # type: ignore[arg-type]

    def create_module(self, spec: Any) -> Any:
        from types import ModuleType

        module = ModuleType(spec.name)
        module.__getattr__ = _attribute  # type: ignore[method-assign]
        return module

    def exec_module(self, module: ModuleType) -> None:
        """Nothing: its names are made when they are asked for."""


def _attribute(name: str) -> Any:
    if name.startswith("__"):
        raise AttributeError(name)
    if name not in _ERRORS.split():
        return _Inert(f"remit.{name}")
    package = sys.modules["remit"]  # keeps them: one class, however often and from wherever it is asked for
    if name not in package.__dict__:
        base = Exception if name == "RemitError" else _attribute("RemitError")
        setattr(package, name, type(name, (base,), {"__module__": "remit.errors"}))
    return package.__dict__[name]


def is_inside() -> bool:
    """Whether this process is a jail or its template."""
    return any(isinstance(finder, _InertModules) for finder in sys.meta_path)


def prepare() -> None:
    """Make `import remit` inert; called in a template before the user's module is imported."""
    sys.meta_path.insert(0, _InertModules())
    package = sys.modules["remit"]
    package.__getattr__ = _attribute  # type: ignore[method-assign]


def load_pickle(payload: str) -> Callable[..., Any]:
    """Load a function that travelled by value. Only ever called in a jail."""
    import pickle  # inside the jail is where a pickle may be loaded

    function: Callable[..., Any] = pickle.loads(a2b_base64(payload))  # noqa: S301  # in a jail, whatever it does
    return function


def describe(function: Callable[..., Any]) -> dict[str, Any]:
    """Return a function's name, docstring and parameters as plain data, for a host that has not imported it."""
    import inspect

    parameters = []
    for parameter in inspect.signature(function).parameters.values():
        annotation = parameter.annotation
        text = annotation if isinstance(annotation, str) else getattr(annotation, "__name__", "")
        if getattr(annotation, "__args__", None):
            text = str(annotation)
        parameters.append(
            {
                "name": parameter.name,
                "kind": parameter.kind.name.lower(),
                "required": parameter.default is parameter.empty
                and parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD),
                "annotation": text if text and text != "_empty" else None,
            }
        )
    doc = inspect.getdoc(function) or ""
    return {"name": getattr(function, "__name__", "function"), "doc": doc[:4000], "parameters": parameters}
