"""Units: bytes, milliseconds, counts and rates, as users write them.

Bare integers are milliseconds and bytes. A bare float, and a bare time under 100, is refused, because `timeout=5`
would be 5 ms where 5 s was meant. `"unlimited"` is explicit: the value is `UNLIMITED`, never None or 0.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import timedelta
from enum import Enum
from fractions import Fraction
from typing import Any, Final, Literal

from remit.errors import PolicyError
from remit.model.spelling import known_keys, shown

__all__ = [
    "UNLIMITED",
    "AnyCount",
    "AnyDuration",
    "AnyRate",
    "AnySize",
    "Bound",
    "RateLimit",
    "Unlimited",
    "bytes_of",
    "bytes_text",
    "count_of",
    "milliseconds_of",
    "milliseconds_text",
    "narrower",
]


class Unlimited(Enum):
    """The type of `UNLIMITED`."""

    UNLIMITED = "unlimited"

    def __repr__(self) -> str:
        return "unlimited"

    __str__ = __repr__


UNLIMITED: Final = Unlimited.UNLIMITED

Bound = int | Literal[Unlimited.UNLIMITED]
"""A limit that is set: an integer, or `UNLIMITED`."""
AnySize = int | str | Unlimited
AnyDuration = int | str | timedelta | Unlimited
AnyCount = int | str | Unlimited

_NUMBER = r"(?P<number>\d{1,19}(?:\.\d{1,9})?)"
_QUANTITY = re.compile(rf"\s*{_NUMBER}\s*(?P<unit>[A-Za-z]*)\s*", re.ASCII)
_BYTES: Final = {
    "b": 1,
    "kb": 10**3,
    "mb": 10**6,
    "gb": 10**9,
    "tb": 10**12,
    "kib": 2**10,
    "mib": 2**20,
    "gib": 2**30,
    "tib": 2**40,
}
_BYTE_NAMES: Final = (("TiB", 2**40), ("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10))
_TIMES: Final = {"ms": 1, "s": 1000, "m": 60_000, "min": 60_000, "h": 3_600_000, "d": 86_400_000}
_TIME_NAMES: Final = (("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1))
_LEAST_BARE_TIME: Final = 100
_MOST: Final = 2**62  # sums of two stay within 64 bits, which rlimits and timers need


def bytes_of(value: AnySize, *, name: str = "size") -> Bound:
    """A size in bytes: an int is bytes, `"256MiB"` and `"1MB"` are what they say, `"unlimited"` is `UNLIMITED`.

    Raises:
        PolicyError: a float, a bool, an unknown unit, a fraction of a byte, zero or less.
    """
    if _is_unlimited(value):
        return UNLIMITED
    if isinstance(value, str):
        number, unit = _split(value, name, "256MiB")
        if unit == "":
            value = _whole(number, value, name, "256MiB")
        elif unit.lower() in _BYTES:
            value = _whole(number * _BYTES[unit.lower()], value, name, "256MiB")
        else:
            guess = f"`{number}{unit.upper()}iB`" if unit.lower() in ("k", "m", "g", "t") else "`256MiB` or `1MB`"
            raise PolicyError(f"{name}: unknown unit of size in {shown(value)}", remedy=f"write {guess}")
    return _positive(_bare(value, name, "256MiB"), name)


def milliseconds_of(value: AnyDuration, *, name: str = "time") -> Bound:
    """A time in whole milliseconds: an int is milliseconds, `"5s"`, `"250ms"`, `"1.5s"`, `"1h"`, or a timedelta.

    Raises:
        PolicyError: a float, a bool, a bare number under 100, an unknown unit, less than 1 ms.
    """
    if _is_unlimited(value):
        return UNLIMITED
    if isinstance(value, timedelta):
        if value % timedelta(milliseconds=1):
            raise PolicyError(f"{name}: {shown(value)} is not a whole number of milliseconds")
        return _positive(value // timedelta(milliseconds=1), name)
    if isinstance(value, str):
        number, unit = _split(value, name, "5s")
        if unit:
            if unit.lower() not in _TIMES:
                raise PolicyError(
                    f"{name}: unknown unit of time in {shown(value)}", remedy="write `250ms`, `5s` or `1h`"
                )
            return _positive(_whole(number * _TIMES[unit.lower()], value, name, "5s"), name)
        value = _whole(number, value, name, "5s")
    bare = _bare(value, name, "5s")
    if bare < _LEAST_BARE_TIME:
        raise PolicyError(
            f"{name}: a bare `{bare}` means {bare} milliseconds",
            remedy=f'write "{bare}s" for seconds or "{bare}ms" for milliseconds' if bare > 0 else 'write "5s"',
        )
    return _positive(bare, name)


def count_of(value: AnyCount, *, name: str = "count", least: int = 0) -> Bound:
    """A count: an int of at least `least`, digits as text, or `"unlimited"`.

    Raises:
        PolicyError: anything else.
    """
    if _is_unlimited(value):
        return UNLIMITED
    if isinstance(value, str):
        if not re.fullmatch(r"[0-9]{1,19}", value):
            raise PolicyError(f"{name}: {shown(value)} is not a whole number", remedy="write digits, or `unlimited`")
        value = int(value)
    number = _bare(value, name, None)
    if not least <= number <= _MOST:
        raise PolicyError(f"{name}: {number} is out of range", remedy=f"the least is {least}")
    return number


def bytes_text(value: Bound) -> str:
    """The size with its unit, exactly: `256MiB`, `1000B`, `unlimited`."""
    if isinstance(value, Unlimited):
        return "unlimited"
    for name, size in _BYTE_NAMES:
        if value and value % size == 0:
            return f"{value // size}{name}"
    return f"{value}B"


def milliseconds_text(value: Bound) -> str:
    """The time with its unit, exactly: `5s`, `1500ms`, `1h`, `unlimited`."""
    if isinstance(value, Unlimited):
        return "unlimited"
    for name, size in _TIME_NAMES:
        if value and value % size == 0:
            return f"{value // size}{name}"
    return f"{value}ms"


def narrower(one: Bound, other: Bound) -> Bound:
    """The smaller of two limits; `UNLIMITED` is the largest."""
    if isinstance(one, Unlimited):
        return other
    if isinstance(other, Unlimited):
        return one
    return min(one, other)


@dataclass(frozen=True, slots=True)
class RateLimit:
    """At most `limit` in any window of `window_ms` milliseconds.

    Attributes:
        limit: a count of at least 1, or `UNLIMITED`.
        window_ms: integer milliseconds, at least 1.
    """

    limit: Bound
    window_ms: int

    def __post_init__(self) -> None:
        count_of(self.limit, name="limit", least=1)
        _positive(_bare(self.window_ms, "window_ms", "60s"), "window_ms")

    @classmethod
    def of(cls, limit: AnyCount, window: AnyDuration) -> RateLimit:
        """From a count and a window as users write them: `RateLimit.of(100, "60s")`."""
        window_ms = milliseconds_of(window, name="window")
        if isinstance(window_ms, Unlimited):
            raise PolicyError("window: a window cannot be unlimited", remedy='write limit="unlimited"')
        return cls(count_of(limit, name="limit", least=1), window_ms)

    @classmethod
    def parse(cls, value: AnyRate, *, where: str = "rate limit") -> RateLimit:
        """`"100/1m"`, `"1000/1h"`, `"100/s"`, `"unlimited"`, or a mapping with `limit` (or `max`) and `window`.

        Raises:
            PolicyError: anything else.
        """
        if isinstance(value, RateLimit):
            return value
        if _is_unlimited(value):
            return cls(UNLIMITED, 60_000)
        if isinstance(value, str):
            limit, slash, window = value.partition("/")
            if not slash or not limit.strip() or not window.strip():
                raise PolicyError(f"{shown(value)} is not a rate", place=where, remedy='write "100/1m"')
            window = window.strip()
            return cls.of(limit.strip(), f"1{window}" if window.isalpha() else window)
        if isinstance(value, dict):
            keys = known_keys(
                value,
                ("limit", "window"),
                where=where,
                aliases={"max": "limit", "max_requests": "limit", "window_ms": "window"},
            )
            if len(keys) != 2:
                raise PolicyError("a rate needs `limit` and `window`", place=where, remedy='or write "100/1m"')
            return cls.of(keys["limit"], keys["window"])
        raise PolicyError(f"{shown(value)} is not a rate", place=where, remedy='write "100/1m"')

    def __str__(self) -> str:
        if isinstance(self.limit, Unlimited):
            return "unlimited"
        return f"{self.limit}/{milliseconds_text(self.window_ms)}"

    def __repr__(self) -> str:
        return f"RateLimit({str(self)!r})"


AnyRate = str | RateLimit | Unlimited | dict[str, Any]


def _is_unlimited(value: object) -> bool:
    return value is UNLIMITED or (isinstance(value, str) and value.strip().lower() == "unlimited")


def _split(text: str, name: str, example: str) -> tuple[Fraction, str]:
    match = _QUANTITY.fullmatch(text)
    if match is None:
        raise PolicyError(f"{name}: cannot read {shown(text)}", remedy=f'write "{example}", or "unlimited"')
    return Fraction(match["number"]), match["unit"]


def _whole(number: Fraction, text: str, name: str, example: str) -> int:
    if number != int(number):
        raise PolicyError(
            f"{name}: {shown(text)} is not a whole number of its smallest unit", remedy=f'write "{example}"'
        )
    return int(number)


def _bare(value: object, name: str, example: str | None) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        kind = type(value).__name__
        remedy = f'write it with its unit, such as "{example}"' if example else "write a whole number"
        raise PolicyError(f"{name}: a bare {kind}, {shown(value)}, has no unit", remedy=remedy)
    return value


def _positive(value: int, name: str) -> int:
    if not 0 < value <= _MOST:
        raise PolicyError(f"{name}: {value} is out of range", remedy="it must be above zero, and at most 2^62")
    return value
