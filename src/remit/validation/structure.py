"""Parsing and the shape of plain data: JSON without surprises, and one iterative walk that copies what it checks.

Nothing here recurses, so no input can end the interpreter by its depth, and each bound is checked before the work
that it bounds. What comes back is a new value made of exact `dict`, `list`, `str`, `int`, `float`, `bool` (and None
and `bytes`, where they are allowed): what was checked is what is used, whatever happens to the original afterwards.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from remit.errors import ValidationFailed
from remit.validation.encoding import check_size, check_text, decode, excerpt, utf8_size

__all__ = ["Bounds", "canonicalise", "digest", "parse_json", "path_of"]


@dataclass(frozen=True, slots=True)
class Bounds:
    """The bounds of one value.

    Attributes:
        max_bytes: text in UTF-8, bytes and keys together, and the length of JSON text (default 1 MiB).
        depth: containers within containers; a flat list has depth 1 (default 64).
        nodes: values in all, containers and leaves (default 100,000).
        string_length: characters of one string, or bytes of one bytes value (default 1 Mi).
        key_length: characters of one key (default 1,024).
        integer_bits: bits of one integer without its sign (default 1,024).

    Raises:
        ValueError: a bound that is not a positive integer, or a depth above 512.
    """

    max_bytes: int = 1 << 20
    depth: int = 64
    nodes: int = 100_000
    string_length: int = 1 << 20
    key_length: int = 1024
    integer_bits: int = 1024

    def __post_init__(self) -> None:
        for name in self.__slots__:
            value = getattr(self, name)
            if type(value) is not int or value < 1:
                raise ValueError(f"{name} must be a positive integer")
        if self.depth > _DEEPEST:
            raise ValueError(f"depth must be at most {_DEEPEST}: the JSON parser recurses on the C stack")


_DEEPEST = 512
# Strings (an unclosed one runs to the end; possessive, so linear), brackets, and the commas between elements.
_TOKENS = re.compile(r'"(?:[^"\\]++|\\.)*+"?|[\[\]{},]', re.DOTALL)
_DIGITS_PER_BIT = 0.30103
_INFINITY = float("inf")
_Frame = tuple[Iterator[Any], Any, bool, object]  # its source, its copy, whether that is a dict, and the original
_PLAIN_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}")


def parse_json(data: bytes | bytearray | memoryview | str, bounds: Bounds, *, path: str = "") -> Any:
    r"""The value of JSON text (RFC 8259): strict UTF-8, no duplicate keys, no NaN or Infinity, integers exact.

    Depth and the number of values are bounded before parsing, so that what the parser builds is bounded too. Strings
    may still hold escapes such as `\u0000`: `canonicalise` is the next step, and looks at each string.

    Args:
        data: the text, or its bytes.
        bounds: the bounds.
        path: where the text stands, for errors.

    Raises:
        ValidationFailed: anything that is not allowed.
    """
    if isinstance(data, str):
        text = str.__str__(data)
        check_size(text, bounds.max_bytes, path)
        check_text(text, path=path)
    else:
        text = decode(data, bounds.max_bytes, path=path)
    if text.count("[") + text.count("{") > bounds.depth or text.count(",") >= bounds.nodes:
        _scan(text, bounds, path)
    most_digits = int(bounds.integer_bits * _DIGITS_PER_BIT) + 1

    def integer(digits: str) -> int:
        if len(digits) > most_digits + 1:  # before int(), which is quadratic in the number of digits
            raise ValidationFailed(
                f"an integer of {len(digits)} digits; at most {bounds.integer_bits} bits are allowed",
                path=path,
                remedy="send it as a string",
            )
        return int(digits)

    def number(literal: str) -> float:
        value = float(literal)
        if value in (_INFINITY, -_INFINITY):
            raise ValidationFailed(
                f"the number {excerpt(literal)} is too large for a float", path=path, remedy="send it as a string"
            )
        return value

    def constant(name: str) -> float:
        raise ValidationFailed(f"`{name}` is no number", path=path, remedy="leave it out, or send a string")

    def mapping(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) != len(pairs):
            seen: set[str] = set()
            for key, _ in pairs:
                if key in seen:
                    raise ValidationFailed(f"the key {excerpt(key)} is there twice", path=path, remedy="keep one")
                seen.add(key)
        return found

    try:
        return json.loads(
            text, parse_int=integer, parse_float=number, parse_constant=constant, object_pairs_hook=mapping
        )
    except json.JSONDecodeError as error:
        # The column of a stranger's text is enough; its message is Python's own and quotes nothing of the text.
        raise ValidationFailed(
            f"not JSON: {error.msg[:1].lower()}{error.msg[1:]} (line {error.lineno}, column {error.colno})", path=path
        ) from None
    except RecursionError:
        raise _too_deep(bounds, path) from None


def canonicalise(
    value: object, bounds: Bounds, *, allow_null: bool = False, allow_bytes: bool = False, path: str = "value"
) -> Any:
    """A plain copy of `value`, checked on the way.

    Subclasses of the plain types are copied by the base type's own methods, so that none of their code runs; tuples
    become lists. Keys are strings. NaN and the infinities are refused.

    Args:
        value: anything.
        bounds: the bounds.
        allow_null: allow None.
        allow_bytes: allow `bytes` and `bytearray`.
        path: what the value is called, for errors, such as `args`.

    Raises:
        ValidationFailed: with the path of the first offence, such as `args.items[3].url`.
    """
    holder: list[Any] = []
    frames: list[_Frame] = []  # the containers around the one that is being read
    source: Iterator[Any] = iter((value,))
    origin: object = None
    out: Any = holder
    keyed = False
    key: Any = None
    nodes = bounds.nodes
    room = bounds.max_bytes
    longest = bounds.string_length

    def fail(reason: str, remedy: str = "") -> ValidationFailed:
        return ValidationFailed(reason, path=path + _trail(frames, out, keyed, key), remedy=remedy)

    try:
        while True:
            for child in source:
                if keyed:
                    key, child = child  # noqa: PLW2901  # an item of a dict is a pair
                    if type(key) is not str:
                        if not issubclass(type(key), str):
                            kind, key = type(key), None
                            raise fail(f"a key of type {_kind(kind)}", "keys must be strings")
                        key = str.__str__(key)
                        if key in out:  # two keys that differ only by their subclass's own idea of equality
                            raise fail("the key is there twice", "keep one")
                    if len(key) > bounds.key_length:
                        size, key = len(key), key[:16]
                        raise fail(f"a key of {size} characters; at most {bounds.key_length} are allowed")
                    if not key.isprintable():
                        check_text(key, path=path + _trail(frames, out, keyed, None) + " (a key)")
                    room -= utf8_size(key)
                    if room < 0:
                        raise fail(f"more than {bounds.max_bytes} bytes", "send less at once")
                nodes -= 1
                if nodes < 0:
                    raise fail(f"more than {bounds.nodes} values", "send less at once")
                kind = type(child)
                if kind is not str and kind is not int and kind is not bool and kind is not float:
                    kind = _base(kind)
                    if kind is str:
                        child = str.__str__(child)  # noqa: PLW2901  # the plain copy takes its place
                    elif kind is int:
                        child = int.__int__(child)  # noqa: PLW2901  # likewise
                    elif kind is float:
                        child = float.__float__(child)  # noqa: PLW2901  # likewise
                if kind is str:
                    if len(child) > longest:
                        raise fail(f"a string of {len(child)} characters; at most {longest} are allowed")
                    room -= utf8_size(child)
                    if room < 0:
                        raise fail(f"more than {bounds.max_bytes} bytes", "send less at once")
                    if not child.isprintable():
                        check_text(child, path=path + _trail(frames, out, keyed, key))
                elif kind is int:
                    bits = child.bit_length()
                    if bits > bounds.integer_bits:
                        raise fail(f"an integer of {bits} bits; at most {bounds.integer_bits} are allowed")
                elif kind is float:
                    if not -_INFINITY < child < _INFINITY:
                        raise fail(f"`{child}` is not a number that JSON has", "leave it out, or send a string")
                elif kind is bool:
                    pass
                elif kind is dict or kind is list or kind is tuple:
                    if len(frames) >= bounds.depth:
                        if child is origin or any(child is frame[3] for frame in frames):
                            raise fail("the value contains itself", "send a value without cycles")
                        raise fail(f"nested more than {bounds.depth} deep", "send a flatter value")
                    inside: Any = {} if kind is dict else []
                    if keyed:
                        out[key] = inside
                    else:
                        out.append(inside)
                    frames.append((source, out, keyed, origin))
                    origin = child
                    out = inside
                    keyed = kind is dict
                    source = iter(dict.items(child)) if keyed else kind.__iter__(child)
                    break
                elif child is None:
                    if not allow_null:
                        raise fail("null is not allowed here", "leave it out, or say `| None` in the annotation")
                elif kind is bytes or kind is bytearray:
                    if not allow_bytes:
                        raise fail("bytes are not allowed here", "send text, or say `bytes` in the annotation")
                    raw = bytes.__getitem__(child, slice(None)) if kind is bytes else bytes(memoryview(child))
                    child = raw  # noqa: PLW2901  # likewise
                    if len(child) > longest:
                        raise fail(f"{len(child)} bytes; at most {longest} are allowed in one value")
                    room -= len(child)
                    if room < 0:
                        raise fail(f"more than {bounds.max_bytes} bytes", "send less at once")
                else:
                    raise fail(f"a value of type {_kind(type(child))} is not plain data", _PLAIN)
                if keyed:
                    out[key] = child
                else:
                    out.append(child)
            else:
                if not frames:
                    break
                source, out, keyed, origin = frames.pop()
    except RuntimeError as error:  # another thread changed a dict while it was read
        raise ValidationFailed(f"the value changed while it was read ({error})", path=path) from None
    return holder[0]


def digest(value: object) -> str:
    """SHA-256 (hex) of the canonical JSON of a plain value: keys sorted, no spaces, ASCII, bytes as `{"$bytes": hex}`.

    A key of the data that begins with `$` gets one more, so that no two values share a form. Integers and floats differ
    (`1`, `1.0`).

    Raises:
        ValidationFailed: the value is not plain data, or nested too deeply.
    """
    try:
        text = _CANONICAL.encode(value)
        if '"$' in text:
            text = _CANONICAL.encode(_escaped(value))
    except (TypeError, ValueError) as error:
        raise ValidationFailed(f"no canonical form: {excerpt(str(error))}", remedy=_PLAIN) from None
    except RecursionError:
        raise ValidationFailed("no canonical form: nested too deeply") from None
    return hashlib.sha256(text.encode("ascii")).hexdigest()


def path_of(name: str, steps: tuple[str | int, ...]) -> str:
    """`args`, ("items", 3, "url") -> `args.items[3].url`; unusual keys are quoted and escaped."""
    return name + "".join(map(_step, steps))


_PLAIN = "plain data is str, int, float, bool, list and dict"
_BASES: tuple[type, ...] = (str, int, float, dict, list, tuple, bytes)


def _base(kind: type) -> type:
    if kind is bool or kind is type(None) or kind is bytearray:
        return kind
    for base in _BASES:
        # Asks the type itself: isinstance() would also ask the value's __class__, which may be anything.
        if issubclass(kind, base):
            return base
    return kind


def _kind(kind: type) -> str:
    return excerpt(type.__dict__["__name__"].__get__(kind))  # type.__name__ itself, not what a metaclass says


def _step(step: str | int) -> str:
    if isinstance(step, int):
        return f"[{step}]"
    if _PLAIN_NAME.fullmatch(step):
        return f".{step}"
    return f"[{excerpt(step)}]"


def _trail(frames: list[_Frame], out: Any, keyed: bool, key: str | None) -> str:
    """The path of the value at hand: in each frame it is what was put last, in the innermost what comes next."""
    steps: list[str | int] = [
        next(reversed(container)) if was_keyed else len(container) - 1 for _, container, was_keyed, _ in frames[1:]
    ]
    if frames:
        if not keyed:
            steps.append(len(out))
        elif key is not None:
            steps.append(key)
    if len(steps) > 12:  # a path of a thousand steps helps nobody
        return path_of("", tuple(steps[:6])) + "..." + path_of("", tuple(steps[-4:]))
    return path_of("", tuple(steps))


def _too_deep(bounds: Bounds, path: str) -> ValidationFailed:
    return ValidationFailed(f"nested more than {bounds.depth} deep", path=path, remedy="send a flatter value")


def _scan(text: str, bounds: Bounds, path: str) -> None:
    depth = 0
    nodes = 1
    opened = 0
    strings = 0
    for token in _TOKENS.finditer(text):
        first = token[0][0]
        if first == '"':
            strings += 1
        elif first in "[{":
            depth += 1
            opened += 1
            if depth > bounds.depth:
                raise _too_deep(bounds, path)
        elif first == ",":
            nodes += 1
        else:
            depth -= 1
            if depth < 0:
                return  # closed too often: the parser stops here at the latest
        # A text with so many values has as many commas, or as many brackets, or strings: keys and values.
        if nodes > bounds.nodes or opened > bounds.nodes or strings > 2 * bounds.nodes + 1:
            raise ValidationFailed(f"more than {bounds.nodes} values", path=path, remedy="send less at once")


def _bytes_form(value: object) -> dict[str, str]:
    if type(value) is bytes:
        return {"$bytes": value.hex()}
    raise TypeError(f"a value of type {type(value).__name__}")


def _escaped(value: object) -> object:
    """The value with bytes in their form and `$` keys doubled; json.dumps has walked it, so its depth is bounded."""
    if isinstance(value, dict):
        return {f"${key}" if key.startswith("$") else key: _escaped(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_escaped(inner) for inner in value]
    return value


_CANONICAL = json.JSONEncoder(
    sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False, default=_bytes_form
)
