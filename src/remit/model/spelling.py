"""How the words of a user are read and shown: near misses, camelCase, and text that is safe to print."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from typing import Any

from remit.errors import PolicyError

__all__ = ["did_you_mean", "known_keys", "shown", "snake"]

_HUMP = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")
_LONGEST_SHOWN = 120
_LONGEST_COMPARED = 64


def shown(value: object) -> str:
    """`value` in backticks, with control, bidi and other invisible characters escaped, cut after 120 characters.

    Messages end up in terminals and logs, and the words in them may come from a model or a stranger's file.
    """
    text = str(value)
    cut = text[:_LONGEST_SHOWN]
    safe = "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in cut)
    return f"`{safe}{'...' if len(text) > _LONGEST_SHOWN else ''}`"


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """A remedy for a word that is not in `known`: the nearest one, or all of them when none is near."""
    names = sorted(known)
    if not names:
        return ""
    folded = {name.lower(): name for name in names}
    near = difflib.get_close_matches(snake(word[:_LONGEST_COMPARED]).lower(), list(folded), n=1, cutoff=0.6)
    if near:
        return f"did you mean `{folded[near[0]]}`?"
    return "known: " + ", ".join(f"`{name}`" for name in names[:12]) + (", ..." if len(names) > 12 else "")


def snake(key: str) -> str:
    """`fileHandles`, `file-handles` and `file_handles` are one key: the last."""
    return _HUMP.sub("_", key).replace("-", "_").lower()


def known_keys(
    mapping: Mapping[str, Any],
    known: Iterable[str],
    *,
    where: str,
    aliases: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """The mapping with its keys in snake_case; camelCase is taken as well.

    Args:
        mapping: what the user wrote.
        known: the keys that mean something here.
        where: what is read, for the message, such as `limits`.
        aliases: other names, in snake_case, for some of `known`.

    Raises:
        PolicyError: an unknown key, a key that is not text, or the same key twice in two spellings.
    """
    if not isinstance(mapping, Mapping):
        raise PolicyError(f"{shown(where)} must be a mapping, found {type(mapping).__name__}", place=where)
    names = set(known)
    found: dict[str, Any] = {}
    for key, value in mapping.items():
        if not isinstance(key, str):
            raise PolicyError(f"the key {shown(key)} is not text", place=where)
        name = snake(key)
        name = (aliases or {}).get(name, name)
        if name not in names:
            raise PolicyError(f"unknown key {shown(key)}", place=where, remedy=did_you_mean(key, names))
        if name in found:
            raise PolicyError(f"{shown(key)} is given twice, in two spellings", place=where, remedy="keep one")
        found[name] = value
    return found
