"""Which of the project's modules a module really imports, and their text.

A jail does not see the project's folder: an `.env` beside the code stays where it is. It gets the source of the module
and of what that module imports, found by reading `import` statements; installed packages are read where they are.
"""

from __future__ import annotations

import ast
import keyword
import os
import re
import sys
import sysconfig
import tokenize
import warnings
from collections.abc import Callable, Iterable, Iterator
from importlib.machinery import ModuleSpec, PathFinder

from remit.errors import PolicyError
from remit.model.spelling import shown

__all__ = ["functions_of_file", "is_project_module", "of_file", "of_module", "of_modules"]

Sources = dict[str, tuple[str, str, bool]]

_MOST_MODULES = 2_000
_MOST_BYTES = 32 << 20


def _installed_roots() -> tuple[str, ...]:
    paths = sysconfig.get_paths()
    roots = {paths[name] for name in ("stdlib", "platstdlib", "purelib", "platlib")}
    roots |= {entry for entry in sys.path if "site-packages" in entry or "dist-packages" in entry}
    return tuple(os.path.realpath(root) + "/" for root in roots)


def _is_project_file(file: str | None) -> bool:
    if not file or not file.endswith(".py"):
        return False
    real = os.path.realpath(file)
    return not any(real.startswith(root) for root in _installed_roots())


def is_project_module(name: str) -> bool:
    """Whether `name` is imported here and is of the project: neither the standard library, nor installed, nor remit."""
    if name.partition(".")[0] in ("remit", "__main__"):
        return False
    module = sys.modules.get(name)
    return module is not None and _is_project_file(getattr(module, "__file__", None))


def of_module(name: str) -> Sources:
    """The sources of the project's module `name`, imported here, and of all that it imports of the project.

    Raises:
        PolicyError: a source cannot be read, or there are too many.
    """
    return of_modules([name])


def of_modules(names: list[str]) -> Sources:
    """As `of_module`, for several."""
    found: Sources = {}
    _walk(names, found, _spec_here)
    return found


def of_file(path: str) -> tuple[str, Sources]:
    """The module name and sources of a file that is not imported here: what it imports is looked for beside it.

    Raises:
        PolicyError: the file is not there or not Python.
    """
    real = _python_file(path)
    folder, base = os.path.split(real)
    name = _module_name(base.removesuffix(".py"))

    def spec(wanted: str) -> ModuleSpec | None:
        return ModuleSpec(name, None, origin=real) if wanted == name else _spec_beneath(wanted, folder)

    found: Sources = {}
    _walk([name], found, spec)
    return name, found


def functions_of_file(path: str) -> tuple[str, ...]:
    """The names of the functions that stand at the top of a file, without importing it: for a message.

    Raises:
        PolicyError: as `of_file`.
    """
    real = _python_file(path)
    tree = _parsed(_text(real, path), real)
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
    names = (node.name for node in tree.body if isinstance(node, kinds)) if tree is not None else ()
    return tuple(dict.fromkeys(name for name in names if not name.startswith("_")))


def _python_file(path: str) -> str:
    real = os.path.realpath(path)
    if not os.path.lexists(path):
        raise PolicyError(f"there is no file {shown(path)}", remedy="name a file that is there")
    if not os.path.isfile(real) or not real.endswith(".py"):
        raise PolicyError(f"{shown(path)} is not a Python file", remedy="name a file that ends in `.py`")
    return real


def _module_name(stem: str) -> str:
    """The name under which a file's module is imported: its own, unless that is no name, or another module's."""
    name = re.sub(r"\W", "_", stem, flags=re.ASCII)
    if not name.isidentifier() or keyword.iskeyword(name) or name in sys.stdlib_module_names or name == "remit":
        name = f"{name}_file" if name[:1].isalpha() else f"file_{name}"
    return name


def _walk(names: list[str], found: Sources, find: Callable[[str], ModuleSpec | None]) -> None:
    waiting = list(names)
    seen: set[str] = set()
    size = 0
    while waiting:
        name = waiting.pop()
        if name in seen:
            continue
        seen.add(name)
        waiting += [parent for parent in _parents(name) if parent not in seen]
        spec = find(name)
        if spec is None:
            continue
        if spec.origin is None:  # a folder without __init__.py
            found[name] = ("", "", True)
            continue
        text = _text(spec.origin, name)
        package = spec.submodule_search_locations is not None
        found[name] = (spec.origin, text, package)
        size += len(text)
        if len(found) > _MOST_MODULES or size > _MOST_BYTES:
            raise PolicyError(
                f"`{names[0]}` imports more than {_MOST_MODULES} modules of the project",
                remedy="move the function to a module of its own",
            )
        waiting += list(_imports(text, name, spec.origin, package=package))


def _text(file: str, name: str) -> str:
    """The source, in the encoding that it declares (PEP 263)."""
    try:
        with tokenize.open(file) as stream:
            return stream.read(_MOST_BYTES + 1)
    except (OSError, UnicodeDecodeError, SyntaxError) as error:
        raise PolicyError(
            f"the source of {shown(name)} cannot be read: {error}", place=file, remedy="write it in UTF-8, readable"
        ) from None


def _parsed(text: str, file: str) -> ast.Module | None:
    """What it says, or None where it says nothing: importing it will say why, in the jail."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a stranger's text: an invalid escape, `is` with a literal
            return ast.parse(text, file)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None


def _parents(name: str) -> list[str]:
    parts = name.split(".")
    return [".".join(parts[:count]) for count in range(1, len(parts))]


def _imports(text: str, name: str, file: str, *, package: bool) -> Iterator[str]:
    """The names of all that `import` statements anywhere in the text may mean."""
    tree = _parsed(text, file)
    for node in ast.walk(tree) if tree is not None else ():
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parts = name.split(".") if package else name.split(".")[:-1]
                above = parts[: len(parts) - node.level + 1]
                base = ".".join([*above, base] if base else above)
            if base:
                yield base
                yield from (f"{base}.{alias.name}" for alias in node.names if alias.name != "*")


def _spec_here(name: str) -> ModuleSpec | None:
    """The spec of a project module that is imported here, or that lies beside its imported parent."""
    if name.partition(".")[0] in ("remit", "__main__"):
        return None
    module = sys.modules.get(name)
    if module is not None:
        spec = getattr(module, "__spec__", None)
        file = getattr(module, "__file__", None)
        if spec is not None and file is None and spec.submodule_search_locations is not None:
            ours = _is_project_folder(spec.submodule_search_locations)
            return ModuleSpec(name, None, is_package=True) if ours else None
        if not _is_project_file(file):
            return None
        return ModuleSpec(name, None, origin=file, is_package=hasattr(module, "__path__"))
    parent, _, _ = name.rpartition(".")
    path = _path_of(parent) if parent else None
    if parent and path is None:
        return None
    spec = PathFinder.find_spec(name, path)
    if spec is None or (spec.origin is None and not _is_project_folder(spec.submodule_search_locations)):
        return None
    return spec if spec.origin is None or _is_project_file(spec.origin) else None


def _path_of(package: str) -> list[str] | None:
    """Where the submodules of a project package lie, imported or not."""
    if package in sys.modules:
        path = getattr(sys.modules[package], "__path__", None)
    else:
        spec = _spec_here(package)
        path = spec.submodule_search_locations if spec is not None else None
    return None if path is None else list(path)


def _is_project_folder(places: Iterable[str] | None) -> bool:
    return any(_is_project_file(os.path.join(place, "x.py")) for place in places or ())


def _spec_beneath(name: str, folder: str) -> ModuleSpec | None:
    """The spec of the module `name` beneath `folder`, found without importing anything. Never beyond the folder."""
    if name.partition(".")[0] == "remit":
        return None
    place = os.path.join(folder, *name.split("."))
    for file, package in ((os.path.join(place, "__init__.py"), True), (place + ".py", False)):
        real = os.path.realpath(file)
        if os.path.isfile(real) and real.startswith(folder.rstrip("/") + "/"):
            return ModuleSpec(name, None, origin=file, is_package=package)
    inside = os.path.realpath(place).startswith(folder.rstrip("/") + "/")
    if os.path.isdir(place) and inside and ("." in name or not _is_installed(name)):
        return ModuleSpec(name, None, is_package=True)
    return None


def _is_installed(name: str) -> bool:
    """Whether a module stands before a mere folder of the same name (PEP 420: folders come last)."""
    spec = None if name in sys.stdlib_module_names else PathFinder.find_spec(name)
    return name in sys.stdlib_module_names or (spec is not None and spec.origin is not None)
