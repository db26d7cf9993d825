"""What the interpreter itself needs to read: its library, installed packages, the shared libraries of the system."""

from __future__ import annotations

import os
import re
import sys
import sysconfig
from collections.abc import Iterable

__all__ = ["program_needs", "python_path", "python_roots", "resolve", "system_roots"]

_ELF_INTERPRETER = 3  # PT_INTERP, elf(5)


def python_path() -> tuple[str, ...]:
    """Return `sys.path` for a jail: the standard library and the folders of installed packages, not the project's."""
    standard = {sysconfig.get_path("stdlib"), sysconfig.get_path("platstdlib")}
    found = [entry for entry in sys.path if _installed(entry, standard)]
    return tuple(dict.fromkeys([*found, *sorted(path for path in standard if path)]))


def _installed(entry: str, standard: set[str]) -> bool:
    if not entry or not os.path.exists(entry):
        return False
    parts = entry.split("/")
    inside = any(entry == path or entry.startswith(path + "/") for path in standard)
    return inside or "site-packages" in parts or "dist-packages" in parts


def python_roots() -> tuple[str, ...]:
    """Return the folders and files that running Python needs, as they are spelled: read-only in every jail."""
    base = [path for path in python_path() if not path.endswith(".zip")]
    libraries = os.path.join(sys.base_prefix, "lib")
    name = re.compile(r"libpython[\d.]*\.so[\d.]*|lib(ssl|crypto|ffi|z|sqlite3|bz2|lzma)\.so[\d.]*")
    if libraries not in ("/usr/lib", "/lib") and os.path.isdir(libraries):
        base += [os.path.join(libraries, file) for file in sorted(os.listdir(libraries)) if name.fullmatch(file)]
    return tuple(dict.fromkeys([*base, *system_roots()]))


def system_roots() -> tuple[str, ...]:
    """Return where the system keeps its shared libraries and time zones."""
    triplet = sysconfig.get_config_var("MULTIARCH") or f"{os.uname().machine}-linux-gnu"
    folders = [f"/lib/{triplet}", f"/usr/lib/{triplet}", "/lib64", "/usr/lib64"]
    if not any(os.path.isdir(folder) for folder in folders[:2]):
        folders += ["/lib", "/usr/lib"]
    rest = ["/etc/ld.so.cache", "/etc/localtime", "/usr/share/zoneinfo"]
    return tuple(path for path in [*folders, *rest] if os.path.exists(path))


def resolve(paths: Iterable[str]) -> tuple[list[str], list[list[str]]]:
    """Return the real paths (none beneath another of them), and the links that make the spelled ones lead there."""
    spelled = list(paths)
    real = sorted({os.path.realpath(path) for path in spelled})
    kept: list[str] = []
    for path in real:
        if not any(path.startswith(root.rstrip("/") + "/") for root in kept):
            kept.append(path)
    links: dict[str, str] = {}
    for path in spelled:
        _follow(path, links)
    made = [[link, target] for link, target in sorted(links.items())]
    return kept, [pair for pair in made if not any(pair[0].startswith(root.rstrip("/") + "/") for root in kept)]


def _follow(path: str, links: dict[str, str]) -> None:
    """Add every symbolic link that is crossed on the way to `path`."""
    for _ in range(40):  # the kernel's own bound (path_resolution(7))
        at = "/"
        parts = path.strip("/").split("/")
        for index, part in enumerate(parts):
            step = os.path.join(at, part)
            if os.path.islink(step):
                target = os.readlink(step)
                links[step] = target
                path = os.path.normpath(os.path.join(at, target, *parts[index + 1 :]))
                break
            at = step
        else:
            return


def program_needs(program: str) -> tuple[str, ...]:
    """Return what executing `program` executes besides: the loader of an ELF file, the interpreter of a script.

    Raises:
        OSError: it cannot be read.
    """
    needs: list[str] = []
    seen = {program}
    while True:
        with open(program, "rb") as file:
            head = file.read(4096)
        if head.startswith(b"#!"):
            words = head[2:].split(b"\n", 1)[0].split()
            following = os.fsdecode(words[0]) if words else ""
        else:
            following = _loader(head)
        if not following or following in seen or not os.path.exists(following):
            return tuple(needs)
        seen.add(following)
        needs.append(following)
        program = following


def _loader(head: bytes) -> str:
    """Return the path in the PT_INTERP segment of a 64-bit little-endian ELF file (elf(5)), or ""."""
    if head[:6] != b"\x7fELF\x02\x01":
        return ""
    table = int.from_bytes(head[32:40], "little")
    size, count = int.from_bytes(head[54:56], "little"), int.from_bytes(head[56:58], "little")
    for index in range(count):
        entry = head[table + index * size : table + (index + 1) * size]
        if len(entry) == size and int.from_bytes(entry[0:4], "little") == _ELF_INTERPRETER:
            offset, length = int.from_bytes(entry[8:16], "little"), int.from_bytes(entry[32:40], "little")
            return head[offset : offset + length].split(b"\0")[0].decode("utf-8", "replace")
    return ""
