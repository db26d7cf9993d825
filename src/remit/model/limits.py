"""Limits, Constraints, RateLimits and Usage: what a call may use, and what it used.

The constructors take what users write (`memory="256MiB"`, `timeout="5s"`, bare integers as bytes and milliseconds) and
the fields hold plain integers (bytes, milliseconds, counts) or `UNLIMITED`. `repr` writes units.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, ClassVar, Self

from remit.errors import PolicyError
from remit.model.spelling import known_keys
from remit.model.units import (
    UNLIMITED,
    AnyCount,
    AnyDuration,
    AnyRate,
    AnySize,
    Bound,
    RateLimit,
    Unlimited,
    bytes_of,
    bytes_text,
    count_of,
    milliseconds_of,
    milliseconds_text,
    narrower,
)

__all__ = [
    "UNLIMITED",
    "Bound",
    "Constraints",
    "Limits",
    "RateLimit",
    "RateLimits",
    "Unlimited",
    "Usage",
    "bytes_of",
    "milliseconds_of",
]

_Read = Callable[[str, Any], Any]
_Show = Callable[[Any], str]


def _size(name: str, value: Any) -> Bound:
    return bytes_of(value, name=name)


def _time(name: str, value: Any) -> Bound:
    return milliseconds_of(value, name=name)


def _time_or_none(name: str, value: Any) -> Bound | None:
    return None if value is None else milliseconds_of(value, name=name)


def _from_zero(name: str, value: Any) -> Bound:
    return count_of(value, name=name)


def _from_one(name: str, value: Any) -> Bound:
    return count_of(value, name=name, least=1)


def _few(name: str, value: Any) -> Bound:
    # 3 are stdin, stdout and stderr; a jail with fewer than 8 cannot open the interpreter's own files
    return count_of(value, name=name, least=8)


def _rate(name: str, value: Any) -> RateLimit:
    return RateLimit.parse(value, where=name)


def _show_size(value: Bound) -> str:
    return f'"{bytes_text(value)}"'


def _show_time(value: Bound | None) -> str:
    return "None" if value is None else f'"{milliseconds_text(value)}"'


def _show_count(value: Bound) -> str:
    return '"unlimited"' if isinstance(value, Unlimited) else str(value)


def _show_rate(value: RateLimit) -> str:
    return f'"{value}"'


def _narrow_none(one: Bound | None, other: Bound | None) -> Bound | None:
    if one is None:
        return other
    return one if other is None else narrower(one, other)


class _Quantities:
    """What Limits, Constraints and RateLimits share: reading user forms, narrowing, showing with units."""

    __slots__ = ()

    _WHERE: ClassVar[str]
    _FIELDS: ClassVar[Mapping[str, tuple[_Read, _Show, Any]]]
    _ALIASES: ClassVar[Mapping[str, str]] = MappingProxyType({})

    given: frozenset[str]

    def _fill(self, **values: Any) -> None:
        given = frozenset(name for name, value in values.items() if value is not None)
        for name, (read, _, default) in self._FIELDS.items():
            object.__setattr__(self, name, read(name, values[name] if name in given else default))
        object.__setattr__(self, "given", given)

    @classmethod
    def from_mapping(cls, mapping: Mapping[str, Any], *, where: str = "") -> Self:
        """From a plain mapping in snake_case or camelCase; what is left out has its default.

        Raises:
            PolicyError: an unknown key (with the nearest known one), or a value that cannot be meant.
        """
        place = where or cls._WHERE
        keys = known_keys(mapping, cls._FIELDS, where=place, aliases=cls._ALIASES)
        try:
            return cls(**keys)
        except PolicyError as error:
            raise PolicyError(error.reason, place=error.place or place, remedy=error.remedy) from None

    def items(self) -> Iterator[tuple[str, Any]]:
        """The fields and their normalised values, in order."""
        for name in self._FIELDS:
            yield name, getattr(self, name)

    def as_text(self, *, only_given: bool = False) -> dict[str, str | int | None]:
        """Plain JSON data with units, as a file would have it: `{"memory": "256MiB", "connections": 10, ...}`."""
        found: dict[str, str | int | None] = {}
        for name, value in self.items():
            if only_given and name not in self.given:
                continue
            text = self._FIELDS[name][1](value)
            found[name] = text[1:-1] if text.startswith('"') else (None if text == "None" else int(text))
        return found

    def replace(self, **changes: Any) -> Self:
        """A copy with some fields changed; takes user forms, keeps the other fields exactly.

        Use it in place of `dataclasses.replace`, which would read a kept 50 ms as a bare `50`.
        """
        keys = known_keys(changes, self._FIELDS, where=self._WHERE, aliases=self._ALIASES)
        return self._with({name: self._FIELDS[name][0](name, value) for name, value in keys.items()}, frozenset(keys))

    def only(self, names: frozenset[str]) -> Self:
        """The same with only `names` counted as given."""
        copy = self._with({}, frozenset())
        object.__setattr__(copy, "given", self.given & names)
        return copy

    def within(self, ceiling: Self, *, place: str, ceiling_place: str) -> Self:
        """What code asks for (`self`) beneath what the operator's file gives (`ceiling`).

        A field that the file does not give is the code's; one that code does not give is the file's.

        Raises:
            PolicyError: a field that both give is higher here; both places are named.
        """
        for name in sorted(self.given & ceiling.given):
            mine, its = getattr(self, name), getattr(ceiling, name)
            if not self._fits(mine, its):
                show = self._FIELDS[name][1]
                raise PolicyError(
                    f"`{name}={show(mine)}` is more than the {show(its)} that {ceiling_place} gives",
                    place=place,
                    remedy="ask for less here, or have the file changed",
                )
        values = {name: getattr(ceiling, name) for name in ceiling.given - self.given}
        return self._with(values, ceiling.given)

    @staticmethod
    def _fits(value: Any, ceiling: Any) -> bool:
        return ceiling is None or (value is not None and narrower(value, ceiling) == value)

    def _with(self, values: Mapping[str, Any], given: frozenset[str]) -> Self:
        copy = object.__new__(type(self))
        for name, value in self.items():
            object.__setattr__(copy, name, values.get(name, value))
        object.__setattr__(copy, "given", self.given | given)
        return copy

    def __repr__(self) -> str:
        inside = ", ".join(f"{name}={self._FIELDS[name][1](value)}" for name, value in self.items())
        return f"{type(self).__name__}({inside})"


@dataclass(frozen=True, slots=True, init=False, repr=False)
class Limits(_Quantities):
    """What one call, or one agent over its live calls, may use.

    Attributes:
        memory: bytes that a call may add over its template (256MiB).
        cpu: milliseconds of CPU time (user + system, over the call's process tree) (1s).
        connections: open network connections, per agent over its live calls (10).
        file_handles: open descriptors in a call (RLIMIT_NOFILE), at least 8 (100).
        pool_size: live jails plus pooled objects, per agent (1000).
        processes: processes in a call; 1 means that it cannot fork (1).
        threads: threads in a call (64).
        output: bytes of stdout and stderr together that are kept (1MiB).
        file_size: bytes of the largest file that a call may write (RLIMIT_FSIZE) (64MiB).
        result: bytes of the encoded result (1MiB).
        given: the names of the fields that were set, not left at their default (in brackets).
    """

    memory: Bound
    cpu: Bound
    connections: Bound
    file_handles: Bound
    pool_size: Bound
    processes: Bound
    threads: Bound
    output: Bound
    file_size: Bound
    result: Bound
    given: frozenset[str] = field(compare=False)

    _WHERE: ClassVar[str] = "limits"
    _FIELDS: ClassVar[Mapping[str, tuple[_Read, _Show, Any]]] = MappingProxyType(
        {
            "memory": (_size, _show_size, "256MiB"),
            "cpu": (_time, _show_time, "1s"),
            "connections": (_from_zero, _show_count, 10),
            "file_handles": (_few, _show_count, 100),
            "pool_size": (_from_one, _show_count, 1000),
            "processes": (_from_one, _show_count, 1),
            "threads": (_from_one, _show_count, 64),
            "output": (_size, _show_size, "1MiB"),
            "file_size": (_size, _show_size, "64MiB"),
            "result": (_size, _show_size, "1MiB"),
        }
    )

    def __init__(
        self,
        *,
        memory: AnySize | None = None,
        cpu: AnyDuration | None = None,
        connections: AnyCount | None = None,
        file_handles: AnyCount | None = None,
        pool_size: AnyCount | None = None,
        processes: AnyCount | None = None,
        threads: AnyCount | None = None,
        output: AnySize | None = None,
        file_size: AnySize | None = None,
        result: AnySize | None = None,
    ) -> None:
        self._fill(
            memory=memory,
            cpu=cpu,
            connections=connections,
            file_handles=file_handles,
            pool_size=pool_size,
            processes=processes,
            threads=threads,
            output=output,
            file_size=file_size,
            result=result,
        )

    def narrow(self, other: Limits) -> Limits:
        """The smaller of each: a function's own limits only narrow its agent's."""
        return self._with({name: narrower(value, getattr(other, name)) for name, value in self.items()}, other.given)


@dataclass(frozen=True, slots=True, init=False, repr=False)
class Constraints(_Quantities):
    """How long, and for how many tokens.

    Attributes:
        max_tokens: tokens of one model call (1000).
        timeout: milliseconds of wall clock for one function's execution (5s).
        model_timeout: milliseconds for one model call (60s).
        approval_timeout: milliseconds that a call waits for a person (5m).
        queue_timeout: milliseconds that a call waits for a jail (5s).
        turn_timeout: milliseconds for one turn of a conversation, or None.
        run_timeout: milliseconds for one run, or None.
        given: the names of the fields that were set, not left at their default (in brackets).
    """

    max_tokens: Bound
    timeout: Bound
    model_timeout: Bound
    approval_timeout: Bound
    queue_timeout: Bound
    turn_timeout: Bound | None
    run_timeout: Bound | None
    given: frozenset[str] = field(compare=False)

    _WHERE: ClassVar[str] = "constraints"
    _FIELDS: ClassVar[Mapping[str, tuple[_Read, _Show, Any]]] = MappingProxyType(
        {
            "max_tokens": (_from_one, _show_count, 1000),
            "timeout": (_time, _show_time, "5s"),
            "model_timeout": (_time, _show_time, "60s"),
            "approval_timeout": (_time, _show_time, "5m"),
            "queue_timeout": (_time, _show_time, "5s"),
            "turn_timeout": (_time_or_none, _show_time, None),
            "run_timeout": (_time_or_none, _show_time, None),
        }
    )

    def __init__(
        self,
        *,
        max_tokens: AnyCount | None = None,
        timeout: AnyDuration | None = None,
        model_timeout: AnyDuration | None = None,
        approval_timeout: AnyDuration | None = None,
        queue_timeout: AnyDuration | None = None,
        turn_timeout: AnyDuration | None = None,
        run_timeout: AnyDuration | None = None,
    ) -> None:
        self._fill(
            max_tokens=max_tokens,
            timeout=timeout,
            model_timeout=model_timeout,
            approval_timeout=approval_timeout,
            queue_timeout=queue_timeout,
            turn_timeout=turn_timeout,
            run_timeout=run_timeout,
        )

    def narrow(self, other: Constraints) -> Constraints:
        """The smaller of each; None (`turn_timeout`, `run_timeout`) is no bound."""
        values = {name: _narrow_none(value, getattr(other, name)) for name, value in self.items()}
        return self._with(values, other.given)


@dataclass(frozen=True, slots=True, init=False, repr=False)
class RateLimits(_Quantities):
    """How often an agent may act.

    Attributes:
        messages: messages sent (100/1m).
        functions: functions called; refused attempts count (1000/1h).
        default: every action without numbers of its own (100/1m).
        given: the names of the fields that were set, not left at their default (in brackets).
    """

    messages: RateLimit
    functions: RateLimit
    default: RateLimit
    given: frozenset[str] = field(compare=False)

    _WHERE: ClassVar[str] = "rate_limits"
    _FIELDS: ClassVar[Mapping[str, tuple[_Read, _Show, Any]]] = MappingProxyType(
        {
            "messages": (_rate, _show_rate, "100/60s"),
            "functions": (_rate, _show_rate, "1000/3600s"),
            "default": (_rate, _show_rate, "100/60s"),
        }
    )

    def __init__(
        self, *, messages: AnyRate | None = None, functions: AnyRate | None = None, default: AnyRate | None = None
    ) -> None:
        self._fill(messages=messages, functions=functions, default=default)

    @staticmethod
    def _fits(value: RateLimit, ceiling: RateLimit) -> bool:
        return _within(value, ceiling)


def _within(rate: RateLimit, ceiling: RateLimit) -> bool:
    """Whether a stream that keeps `rate` always keeps `ceiling`.

    A window as long as ceiling's is covered by ceil(W/w) windows of rate's, so it sees at most that many times its
    limit.
    """
    if isinstance(ceiling.limit, Unlimited):
        return True
    if isinstance(rate.limit, Unlimited):
        return False
    return rate.limit * -(-ceiling.window_ms // rate.window_ms) <= ceiling.limit


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """What one call used.

    Attributes:
        wall_ms: milliseconds of wall clock (float, monotonic).
        cpu_user_ms, cpu_system_ms: milliseconds of CPU time (float, getrusage(2)).
        peak_memory: bytes that the call added over its template, at the most.
        output_bytes: bytes written to stdout and stderr, kept or not.
        connections: network connections opened.
    """

    wall_ms: float = 0.0
    cpu_user_ms: float = 0.0
    cpu_system_ms: float = 0.0
    peak_memory: int = 0
    output_bytes: int = 0
    connections: int = 0

    @property
    def cpu_ms(self) -> float:
        """User and system time together, in milliseconds."""
        return self.cpu_user_ms + self.cpu_system_ms

    def as_dict(self) -> dict[str, float | int]:
        """Plain JSON data, for the audit trail."""
        return {
            "wall_ms": self.wall_ms,
            "cpu_user_ms": self.cpu_user_ms,
            "cpu_system_ms": self.cpu_system_ms,
            "peak_memory": self.peak_memory,
            "output_bytes": self.output_bytes,
            "connections": self.connections,
        }
