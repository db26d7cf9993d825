"""The socket between host and jail: frames of plain data, decoded as if the other side were hostile, because it is.

A frame is a header (magic, length of the JSON text, number of raw sections), the length of each section, the JSON
text, the sections. Bytes travel as sections: `{"$bytes": i}` stands for the i-th. A key that begins with `$` is
escaped by one more. Every length is checked against a bound before anything is read or built.
"""

from __future__ import annotations

import json
import math
import struct

TYPE_CHECKING = False
if TYPE_CHECKING:  # the zygote imports this module, and every page of `typing` is copied at each fork
    from typing import Any

__all__ = ["FrameReader", "NotPlain", "ProtocolError", "pack", "unpack"]

_HEADER = struct.Struct("<4sII")
_MAGIC = b"rmt1"
_MAX_SECTIONS = 1024
_MAX_DEPTH = 64


class ProtocolError(Exception):
    """The other side sent what no honest one sends."""


class NotPlain(Exception):
    """A value is not plain data; the message says where and what."""


def pack(message: Any) -> bytes:
    """Encode plain data: None, bool, int, float (finite), str, bytes, lists and tuples, dicts with str keys.

    Raises:
        NotPlain: for anything else, deeper than 64, text that UTF-8 cannot carry, or an integer of over 4,300 digits.
    """
    sections: list[bytes] = []
    try:
        text = json.dumps(_plain(message, sections, "$", 0), ensure_ascii=False, separators=(",", ":")).encode()
    except UnicodeEncodeError as error:
        raise NotPlain("text with a lone surrogate") from error
    except ValueError as error:  # sys.set_int_max_str_digits
        raise NotPlain(str(error)) from error
    lengths = b"".join(len(section).to_bytes(4, "little") for section in sections)
    return b"".join([_HEADER.pack(_MAGIC, len(text), len(sections)), lengths, text, *sections])


def _plain(value: Any, sections: list[bytes], path: str, depth: int) -> Any:
    kind = type(value)
    if kind is str or kind is int or kind is bool or value is None:
        return value
    if isinstance(value, float):
        if not math.isfinite(value):
            raise NotPlain(f"{path} is {value!r}, which JSON does not have")
        return float(value)
    if depth > _MAX_DEPTH:
        raise NotPlain(f"{path} is nested deeper than {_MAX_DEPTH}")
    if isinstance(value, (bytes, bytearray, memoryview)):
        if len(sections) >= _MAX_SECTIONS:
            raise NotPlain(f"{path} is one of more than {_MAX_SECTIONS} byte strings")
        sections.append(bytes(value))
        return {"$bytes": len(sections) - 1}
    if isinstance(value, (list, tuple)):
        return [_plain(item, sections, f"{path}[{index}]", depth + 1) for index, item in enumerate(value)]
    if isinstance(value, dict):
        plain = {}
        for key, item in value.items():
            if not isinstance(key, str):
                raise NotPlain(f"{path} has a key of type `{type(key).__name__}`, not text")
            plain["$" + key if key.startswith("$") else key] = _plain(item, sections, f"{path}.{key}", depth + 1)
        return plain
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, int):
        return int(value)
    raise NotPlain(f"{path} is a `{kind.__module__}.{kind.__qualname__}`")


def unpack(frame: bytes) -> Any:
    """Decode one whole frame.

    Raises:
        ProtocolError: it is not a frame, or not plain data: duplicate keys, NaN, bytes that are not there, too deep.
    """
    magic, length, count = _HEADER.unpack_from(frame) if len(frame) >= _HEADER.size else (b"", 0, 0)
    if magic != _MAGIC or count > _MAX_SECTIONS:
        raise ProtocolError("not a frame")
    lengths = [int.from_bytes(frame[12 + 4 * i : 16 + 4 * i], "little") for i in range(count)]
    at = 12 + 4 * count
    text, at = frame[at : at + length], at + length
    sections = []
    for size in lengths:
        sections.append(frame[at : at + size])
        at += size
    if at != len(frame):
        raise ProtocolError("a frame's lengths do not add up")
    try:
        value = json.loads(
            text.decode("utf-8"),
            parse_constant=_no_constant,
            parse_float=_finite,
            object_pairs_hook=_no_duplicates,
        )
        if text.count(b"[") + text.count(b"{") > _MAX_DEPTH:
            _shallow(value)
        if b"\\ud" in text or b"\\uD" in text:  # half a character: whoever writes it down later would fail
            json.dumps(value, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        raise ProtocolError(f"not plain data: {type(error).__name__}") from None
    return _restore(value, sections) if b'"$' in text else value


def _no_constant(name: str) -> Any:
    raise ValueError(name)


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):  # 1e999
        raise ValueError(text)
    return number


def _shallow(value: Any) -> None:
    """Refuse what is deeper than `pack` makes, without recursion: the parser's own bound is the stack's."""
    level = [value]
    for _ in range(_MAX_DEPTH + 2):
        below = [item for item in level if isinstance(item, (list, dict))]
        level = [inner for item in below for inner in (item.values() if isinstance(item, dict) else item)]
        if not level:
            return
    raise ValueError("too deep")


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        raise ValueError("a key stands twice")
    return made


def _restore(value: Any, sections: list[bytes]) -> Any:
    """Put the sections in and take the escapes off. `_shallow` has bounded the depth."""
    if isinstance(value, list):
        return [_restore(item, sections) for item in value]
    if not isinstance(value, dict):
        return value
    if "$bytes" in value:
        index = value["$bytes"]
        if len(value) != 1 or type(index) is not int or not 0 <= index < len(sections):
            raise ProtocolError("bytes that are not there")
        return sections[index]
    return {key.removeprefix("$"): _restore(item, sections) for key, item in value.items()}


class FrameReader:
    """Collects the bytes of one frame of at most `limit` bytes; what comes after it is an error."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._data = bytearray()
        self._whole: int | None = None

    def feed(self, data: bytes) -> bytes | None:
        """Add what was read; returns the frame when it is whole.

        Raises:
            ProtocolError: not a frame, or more than one.
            OverflowError: the frame is larger than the limit; known from its header, before it is read.
        """
        self._data += data
        if self._whole is None:
            if len(self._data) < _HEADER.size:
                return None
            magic, length, count = _HEADER.unpack_from(self._data)
            if magic != _MAGIC or count > _MAX_SECTIONS:
                raise ProtocolError("not a frame")
            table = _HEADER.size + 4 * count
            if length > self._limit:
                raise OverflowError(length)
            if len(self._data) < table:
                return None
            sizes = [int.from_bytes(self._data[12 + 4 * i : 16 + 4 * i], "little") for i in range(count)]
            if length + sum(sizes) > self._limit:
                raise OverflowError(length + sum(sizes))
            self._whole = table + length + sum(sizes)
        if len(self._data) > self._whole:
            raise ProtocolError("more than one frame")
        return bytes(self._data) if len(self._data) == self._whole else None
