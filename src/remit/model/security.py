"""Security: what is declared of an agent or a function, before any file or default is applied."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from remit.errors import PolicyError
from remit.model.limits import Constraints
from remit.model.spelling import known_keys, shown

__all__ = ["Security", "words"]

_KEYS = ("permissions", "deny", "constraints", "require", "accept_without")


@dataclass(frozen=True, slots=True, init=False)
class Security:
    """What an agent may do, as its code declares it.

    Attributes:
        permissions: grants as text (`network:api.github.com:443`), or None for the configured default.
        deny: grants that are refused whatever else allows them; a bare kind refuses all of it.
        constraints: time and tokens.
        require: guarantees that must hold beside those required by default.
        accept_without: guarantees that may be missing on this machine; recorded.
    """

    permissions: tuple[str, ...] | None = None
    deny: tuple[str, ...] = ()
    constraints: Constraints = field(default_factory=Constraints)
    require: tuple[str, ...] = ()
    accept_without: tuple[str, ...] = ()

    def __init__(
        self,
        *,
        permissions: Iterable[str] | None = None,
        deny: Iterable[str] = (),
        constraints: Constraints | Mapping[str, Any] | None = None,
        require: Iterable[str] = (),
        accept_without: Iterable[str] = (),
    ) -> None:
        given = None if permissions is None else words(permissions, where="security.permissions")
        object.__setattr__(self, "permissions", given)
        object.__setattr__(self, "deny", words(deny, where="security.deny"))
        object.__setattr__(self, "constraints", _constraints(constraints))
        object.__setattr__(self, "require", words(require, where="security.require"))
        object.__setattr__(self, "accept_without", words(accept_without, where="security.accept_without"))
        both = set(self.require) & set(self.accept_without)
        if both:
            raise PolicyError(f"{shown(min(both))} is both required and accepted without", place="security")

    @classmethod
    def from_mapping(cls, mapping: Mapping[str, Any], *, where: str = "security") -> Security:
        """From a plain mapping, snake_case or camelCase.

        Raises:
            PolicyError: an unknown key, or a value of the wrong kind.
        """
        return cls(**known_keys(mapping, _KEYS, where=where))

    @classmethod
    def of(cls, value: Security | Mapping[str, Any] | None) -> Security:
        """`value` itself, or what it means: a mapping, or None for the defaults."""
        if value is None:
            return cls()
        return value if isinstance(value, Security) else cls.from_mapping(value)


def _constraints(value: Constraints | Mapping[str, Any] | None) -> Constraints:
    if value is None:
        return Constraints()
    return value if isinstance(value, Constraints) else Constraints.from_mapping(value)


def words(value: Iterable[str], *, where: str) -> tuple[str, ...]:
    """A list of texts; one text alone is refused, as it would be read letter by letter.

    Raises:
        PolicyError: a text instead of a list, or an entry that is not text.
    """
    if isinstance(value, (str, bytes, Mapping)) or not isinstance(value, Iterable):
        raise PolicyError(f"{shown(value)} is not a list", place=where, remedy=f"write `[{value}]`")
    found = tuple(value)
    for position, word in enumerate(found):
        if not isinstance(word, str):
            raise PolicyError(f"{shown(word)} is not text", place=f"{where}[{position}]")
    return found
