"""Annotations and values that come as text: from a jail that describes a function, and from a command line."""

from __future__ import annotations

import re
import types
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import typing_extensions

from remit.errors import PolicyError, ValidationFailed
from remit.validation.encoding import excerpt
from remit.validation.structure import Bounds, parse_json

__all__ = ["described", "from_text"]


def described(text: str | None, place: str) -> Any:
    """The annotation that `text` describes, of a function whose signature came out of a jail: nothing is evaluated.

    `int`, `float`, `str`, `bool`, `bytes`, `list`, `dict`, `None`, `list[...]` and `dict[str, ...]` of them, and
    unions by `|`. Whatever else it says counts as no annotation: anything plain goes, and the function itself must
    cope.

    Raises:
        PolicyError: it is not text at all.
    """
    if text is None:
        return Any
    if not isinstance(text, str):
        raise PolicyError("an annotation must be text", place=place)
    if len(text) > _LONGEST_DESCRIPTION:
        return Any
    tokens = _DESCRIPTION.findall(text)
    found = _Description(tokens).whole()
    return Any if found is None else found


def from_text(annotation: Any, text: str, bounds: Bounds, path: str) -> Any:
    """The value that `text` (of a command line) means for a plain annotation.

    Numbers, `true` and `false`, `null` and JSON are read where the annotation has them; otherwise it is the text
    itself.

    Raises:
        ValidationFailed: the text is none of what the annotation allows.
    """
    wanted: list[str] = []
    takes_text = False
    for kind in _alternatives(annotation):
        if kind is None:
            if text in ("null", "none", "None"):
                return None
            wanted.append("`null`")
        elif kind is bool:
            if text.lower() in ("true", "yes", "1", "false", "no", "0"):
                return text.lower() in ("true", "yes", "1")
            wanted.append("`true` or `false`")
        elif kind is int:
            if re.fullmatch(r"[+-]?[0-9]{1,400}", text):
                return int(text)
            wanted.append("an integer")
        elif kind is float:
            if re.fullmatch(r"[+-]?([0-9]{1,400}(\.[0-9]{0,400})?|\.[0-9]{1,400})([eE][+-]?[0-9]{1,4})?", text):
                return float(text)
            wanted.append("a number")
        elif kind is bytes:
            return text.encode("utf-8", "surrogateescape")
        elif kind in (list, dict):
            if text.lstrip()[:1] == ("[" if kind is list else "{"):
                return parse_json(text, bounds, path=path)
            wanted.append("a list as JSON" if kind is list else "a mapping as JSON")
        elif get_origin(kind) is Literal:
            for choice in get_args(kind):
                if text == (str(choice).lower() if isinstance(choice, bool) else str(choice)):
                    return choice
            wanted.append("one of " + ", ".join(excerpt(str(choice)) for choice in get_args(kind)[:12]))
        else:
            takes_text = True
    if takes_text:
        return text
    raise ValidationFailed(f"cannot read {excerpt(text)}", path=path, remedy="write " + " or ".join(wanted))


_LONGEST_DESCRIPTION = 200
_DESCRIPTION = re.compile(r"[A-Za-z_][A-Za-z0-9_.]*|[\[\],|]|[^\s]")
_DESCRIBED: dict[str, Any] = {
    "int": int,
    "float": float,
    "str": str,
    "bool": bool,
    "bytes": bytes,
    "list": list,
    "dict": dict,
    "None": None,
}


class _Description:
    """Reads `list[int] | None`; each method answers None when it cannot (a None *type* is `type(None)` here)."""

    def __init__(self, tokens: list[str]) -> None:
        self.tokens = tokens[::-1]

    def whole(self) -> Any:
        found = self.union()
        return None if self.tokens else found

    def union(self) -> Any:
        found = self.one()
        while found is not None and self.tokens and self.tokens[-1] == "|":
            self.tokens.pop()
            other = self.one()
            found = None if other is None else found | other
        return found

    def one(self) -> Any:
        name = self.tokens.pop() if self.tokens else ""
        if name not in _DESCRIBED:
            return None
        kind = _DESCRIBED[name]
        if kind is None:
            return type(None)
        if kind not in (list, dict) or not self.tokens or self.tokens[-1] != "[":
            return kind
        self.tokens.pop()
        if kind is dict and not (self.take("str") and self.take(",")):
            return None
        inside = self.union()
        if inside is None or not self.take("]"):
            return None
        return types.GenericAlias(list, inside) if kind is list else types.GenericAlias(dict, (str, inside))

    def take(self, token: str) -> bool:
        return bool(self.tokens) and self.tokens.pop() == token


def _alternatives(annotation: Any) -> list[Any]:
    """The kinds of a plain annotation, the narrowest first, so that `5` is the integer for `int | str`."""
    origin, parts = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _alternatives(parts[0])
    if origin is Union or origin is types.UnionType:
        kinds = [kind for part in parts for kind in _alternatives(part)]
    elif annotation is None or annotation is type(None):
        kinds = [None]
    elif origin in (list, tuple) or annotation is list:
        kinds = [list]
    elif origin is dict or annotation is dict or typing_extensions.is_typeddict(annotation):
        kinds = [dict]
    elif annotation in (bool, int, float, bytes) or origin is Literal:
        kinds = [annotation]
    else:
        kinds = [str]
    order = {None: 0, int: 2, float: 3, list: 5, dict: 5, str: 6, bytes: 7}
    # A bool reads 1 and 0, which belong to an integer where there is one.
    order[bool] = 4 if int in kinds or float in kinds else 1
    return sorted(kinds, key=lambda kind: order.get(kind, 1))
