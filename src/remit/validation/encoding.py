"""Bytes and text, before anything is parsed: their size, and that they are what UTF-8 (RFC 3629) and Unicode allow.

Refused: too many bytes, a byte order mark, UTF-16, overlong forms and surrogates, NUL, noncharacters (Unicode 23.7),
and the C0 and C1 controls but tab, line feed and carriage return.
"""

from __future__ import annotations

import re

from remit.errors import ValidationFailed
from remit.model.spelling import shown

__all__ = ["check_size", "check_text", "decode", "excerpt", "utf8_size"]

_NONCHARACTERS = "\ufdd0-\ufdef" + "".join(chr(plane << 16 | low) for plane in range(17) for low in (0xFFFE, 0xFFFF))
_ALWAYS = "\x00\ud800-\udfff" + _NONCHARACTERS
_CONTROLS = "\x01-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f"
_FORBIDDEN = re.compile(f"[{_ALWAYS}{_CONTROLS}]")
_FORBIDDEN_ALWAYS = re.compile(f"[{_ALWAYS}]")
_MARK = "\ufeff"
_LONGEST_EXCERPT = 80


def decode(data: bytes | bytearray | memoryview, max_bytes: int, *, controls: bool = False, path: str = "") -> str:
    """The text of `data`.

    Args:
        data: UTF-8.
        max_bytes: the most bytes that are looked at at all.
        controls: allow the control characters (never NUL).
        path: where the data stands, for the error.

    Raises:
        ValidationFailed: it is too big, not UTF-8, or has a character that is not allowed.
    """
    size = data.nbytes if isinstance(data, memoryview) else len(data)
    if size > max_bytes:
        raise _too_big(size, max_bytes, path)
    raw = bytes(data)
    if raw.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise ValidationFailed("the data is UTF-16 or UTF-32", path=path, remedy="send UTF-8")
    try:
        text = raw.decode("utf-8", "strict")
    except UnicodeDecodeError as error:
        at = error.start
        raise ValidationFailed(
            f"not UTF-8: byte 0x{raw[at]:02x} at offset {at} ({error.reason})", path=path, remedy="send UTF-8"
        ) from None
    check_text(text, controls=controls, path=path)
    return text


def check_text(text: str, *, controls: bool = False, path: str = "") -> None:
    """That `text` holds only characters that may travel.

    Raises:
        ValidationFailed: with the offset (in characters) of the first one that may not.
    """
    # What Python calls printable has no control, surrogate, noncharacter or byte order mark, and is asked for in C.
    if text.isprintable() or text.replace("\n", "").replace("\t", "").replace("\r", "").isprintable():
        return
    if text.startswith(_MARK):
        raise ValidationFailed("begins with a byte order mark", path=path, remedy="send UTF-8 without it")
    found = (_FORBIDDEN_ALWAYS if controls else _FORBIDDEN).search(text)
    if found is None:
        return
    code = ord(found[0])
    at = f"U+{code:04X} at offset {found.start()}"
    if code == 0:
        every_other = len(text) >= 4 and text.count("\x00") >= len(text) // 2
        remedy = "it looks like UTF-16: send UTF-8" if every_other else "remove it"
        raise ValidationFailed(f"a NUL character, {at}", path=path, remedy=remedy)
    if 0xD800 <= code <= 0xDFFF:
        raise ValidationFailed(f"a lone surrogate, {at}", path=path, remedy="send whole characters")
    if code < 0xA0:
        raise ValidationFailed(
            f"a control character, {at}", path=path, remedy="remove it; tab, line feed and carriage return are allowed"
        )
    raise ValidationFailed(f"a noncharacter, {at}", path=path, remedy="remove it")


def utf8_size(text: str) -> int:
    """How many bytes `text` takes in UTF-8; a lone surrogate counts as three."""
    return len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))


def check_size(text: str, max_bytes: int, path: str) -> None:
    """That `text` takes at most `max_bytes` in UTF-8.

    Raises:
        ValidationFailed: it takes more.
    """
    if len(text) > max_bytes:  # each character is a byte at least: no need to encode what is too long anyway
        raise _too_big(len(text), max_bytes, path)
    size = utf8_size(text)
    if size > max_bytes:
        raise _too_big(size, max_bytes, path)


def excerpt(text: str) -> str:
    """The start of a stranger's text, in backticks, escaped, at most 80 characters of it."""
    return shown(text if len(text) <= _LONGEST_EXCERPT else text[: _LONGEST_EXCERPT - 3] + "...")


def _too_big(size: int, most: int, path: str) -> ValidationFailed:
    return ValidationFailed(f"{size} bytes or more; at most {most} are allowed", path=path, remedy="send less at once")
