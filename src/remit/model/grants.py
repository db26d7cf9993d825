"""GrantSet: what somebody holds, less what is refused to them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Final

from remit.errors import Denied
from remit.model.host import Block
from remit.model.permission import FileScope, Grant, NetworkScope, Permission

__all__ = ["GrantSet"]

_ORDER: Final = {permission: position for position, permission in enumerate(Permission)}


class GrantSet:
    """Grants, and denies that win over them, in canonical form. Frozen and hashable.

    Attributes:
        parts: the grants in canonical form. Iterating gives them as a person would write them.
        deny_parts: the denies in canonical form; `denied` gives them as a person would write them.

    Two questions are answered. `allows(request)`, of one concrete request made by `access`: exactly. `covers(grant)`,
    of all that a grant allows: yes only when one grant here covers it and no deny touches it.

    The canonical form: reading and writing of a path are held apart; a grant that another covers, or that a deny
    refuses altogether, is left out (of a refused `basic_execution:PROGRAM`, `basic_execution` stays); a deny that
    touches no grant is left out, but for a block of addresses beside a name, which may turn out to lead there:
    `refuses`.
    """

    __slots__ = ("_by_kind", "_shown", "deny_parts", "parts")

    parts: tuple[Grant, ...]
    deny_parts: tuple[Grant, ...]
    _by_kind: dict[Permission, tuple[tuple[Grant, ...], tuple[Grant, ...]]]
    _shown: tuple[Grant, ...]

    def __init__(self, grants: Iterable[Grant] = (), deny: Iterable[Grant] = ()) -> None:
        denied = _greatest((part for grant in deny for part in grant.parts()), Grant.refuses_all)
        left = (_left(part, denied) for grant in grants for part in grant.parts())
        allowed = _greatest((grant for grant in left if grant is not None), Grant.covers)
        denied = tuple(deny for deny in denied if any(_concerns(deny, grant) for grant in allowed))
        by_kind = {
            kind: (
                tuple(grant for grant in allowed if grant.permission is kind),
                tuple(grant for grant in denied if grant.permission is kind),
            )
            for kind in {grant.permission for grant in allowed}
        }
        object.__setattr__(self, "parts", allowed)
        object.__setattr__(self, "deny_parts", denied)
        object.__setattr__(self, "_by_kind", by_kind)
        object.__setattr__(self, "_shown", _joined(allowed))

    @classmethod
    def of(cls, grants: Iterable[Grant | str] = (), *, deny: Iterable[Grant | str] = ()) -> GrantSet:
        """The set of `grants` less `deny`; texts are parsed, with absolute paths only.

        Raises:
            PolicyError: a text that is not a grant.
        """
        return cls(map(_grant, grants), map(_grant, deny))

    @property
    def denied(self) -> tuple[Grant, ...]:
        """The denies that matter, in canonical order."""
        return _joined(self.deny_parts)

    def kinds(self) -> frozenset[Permission]:
        """The permissions of which something is held."""
        return frozenset(self._by_kind)

    def of_kind(self, permission: Permission) -> GrantSet:
        """What is held of one permission, with its denies."""
        return GrantSet(*self._by_kind.get(permission, ((), ())))

    def allows(self, request: Grant) -> bool:
        """Whether one concrete request, made by `access`, is allowed."""
        return self.explain(request)[0]

    def explain(self, request: Grant) -> tuple[bool, str]:
        """`allows`, and what decided: `deny GRANT`, `grant GRANT`, or "" when nothing here speaks of the request."""
        deny = self.refuses(request)
        if deny is not None:
            return False, f"deny {deny}"
        allowed, _ = self._by_kind.get(request.permission, ((), ()))
        rule = ""
        for part in request.parts():
            holder = next((grant for grant in allowed if grant.covers(part)), None)
            if holder is None:
                return False, ""
            rule = f"grant {holder}"
        return True, rule

    def refuses(self, request: Grant) -> Grant | None:
        """The deny that refuses one concrete request, or None.

        For a name that is allowed, ask once more of each address that it resolves to before connecting there.
        """
        _, denied = self._by_kind.get(request.permission, ((), ()))
        wanted = request.parts()
        return next((deny for deny in denied if any(deny.refuses_all(part) for part in wanted)), None)

    def covers(self, grant: Grant) -> bool:
        """Whether all that `grant` allows is allowed here."""
        allowed, denied = self._by_kind.get(grant.permission, ((), ()))
        return all(
            any(mine.covers(part) for mine in allowed) and not any(deny.refuses_some(part) for deny in denied)
            for part in grant.parts()
        )

    def covers_all(self, other: GrantSet) -> bool:
        """Whether all that `other` allows is allowed here; a deny here must stand there too, where it matters."""
        return self.intersect(other) == other

    def intersect(self, other: GrantSet) -> GrantSet:
        """What both allow: the grants meet, the denies add up."""
        met = (grant for mine in self.parts for its in other.parts for grant in mine.meet(its))
        return GrantSet(met, (*self.deny_parts, *other.deny_parts))

    def without(self, deny: Iterable[Grant | str]) -> GrantSet:
        """This less what `deny` names."""
        return GrantSet(self.parts, (*self.deny_parts, *map(_grant, deny)))

    def exceeding(self, requested: GrantSet | Iterable[Grant | str]) -> tuple[Grant, ...]:
        """Those of `requested` that no grant here covers or that a deny here refuses altogether, in order."""
        wanted = requested if isinstance(requested, GrantSet) else GrantSet.of(requested)
        return _joined(
            tuple(
                part
                for part in wanted.parts
                if not any(mine.covers(part) for mine in self.parts)
                or any(deny.refuses_all(part) for deny in self.deny_parts)
            )
        )

    def attenuate(self, requested: GrantSet | Iterable[Grant | str]) -> GrantSet:
        """Exactly `requested`, with the denies of both: a part of what is held.

        Raises:
            Denied: something in `requested` is not held; the message names it.
        """
        wanted = requested if isinstance(requested, GrantSet) else GrantSet.of(requested)
        over = self.exceeding(wanted)
        if over:
            held = ", ".join(f"`{grant}`" for grant in self) or "nothing"
            raise Denied(
                f"{', '.join(f'`{grant}`' for grant in over)} is more than what is held, {held}",
                rule="attenuate",
                remedy="ask for less, or have the holder given more",
                stage="authorize",
            )
        return GrantSet(wanted.parts, (*wanted.deny_parts, *self.deny_parts))

    def as_text(self) -> list[str]:
        """The grants as text, in canonical order."""
        return [str(grant) for grant in self._shown]

    def __iter__(self) -> Iterator[Grant]:
        return iter(self._shown)

    def __contains__(self, grant: object) -> bool:
        return grant in self._shown or grant in self.parts

    def __len__(self) -> int:
        return len(self._shown)

    def __bool__(self) -> bool:
        return bool(self.parts)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, GrantSet):
            return NotImplemented
        return self.parts == other.parts and self.deny_parts == other.deny_parts

    def __hash__(self) -> int:
        return hash((self.parts, self.deny_parts))

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"a GrantSet is frozen, `{name}` cannot be set")

    def __delattr__(self, name: str) -> None:
        raise AttributeError(f"a GrantSet is frozen, `{name}` cannot be deleted")

    def __reduce__(self) -> tuple[type[GrantSet], tuple[tuple[Grant, ...], tuple[Grant, ...]]]:
        return GrantSet, (self.parts, self.deny_parts)

    def __repr__(self) -> str:
        deny = f", deny={[str(grant) for grant in self.denied]}" if self.deny_parts else ""
        return f"GrantSet({self.as_text()}{deny})"


def _grant(value: Grant | str) -> Grant:
    return value if isinstance(value, Grant) else Grant.parse(value)


def _left(grant: Grant, denied: tuple[Grant, ...]) -> Grant | None:
    """What the denies leave of a grant that they might refuse altogether."""
    if not any(deny.refuses_all(grant) for deny in denied):
        return grant
    if grant.permission is Permission.BASIC_EXECUTION and grant.scope is not None:
        return _left(Grant(grant.permission), denied)
    return None


def _concerns(deny: Grant, grant: Grant) -> bool:
    """Whether a deny must be kept beside a grant: it touches it, or an address that a granted name may resolve to."""
    if deny.refuses_some(grant):
        return True
    mine, its = deny.scope, grant.scope
    if not isinstance(mine, NetworkScope) or not isinstance(its, NetworkScope):
        return False
    ports_meet = mine.ports[0] <= its.ports[1] and its.ports[0] <= mine.ports[1]
    return ports_meet and isinstance(mine.target, Block) and not isinstance(its.target, Block)


def _greatest(grants: Iterable[Grant], order: Callable[[Grant, Grant], bool]) -> tuple[Grant, ...]:
    """Those that no other one exceeds in `order`, in canonical order."""
    given = set(grants)
    kept = [grant for grant in given if not any(other != grant and order(other, grant) for other in given)]
    return tuple(sorted(kept, key=_key))


def _joined(parts: tuple[Grant, ...]) -> tuple[Grant, ...]:
    """The parts as a person would write them: reading and writing of one path in one grant."""
    scopes: dict[str, FileScope] = {}
    others = []
    for grant in parts:
        if isinstance(grant.scope, FileScope) and grant.scope.path is not None:
            before = scopes.get(grant.scope.path, grant.scope)
            scopes[grant.scope.path] = FileScope(
                grant.scope.path, before.read or grant.scope.read, before.write or grant.scope.write
            )
        else:
            others.append(grant)
    files = [Grant(Permission.FILE_SYSTEM, scope) for scope in scopes.values()]
    return tuple(sorted((*others, *files), key=_key))


def _key(grant: Grant) -> tuple[int, str]:
    return _ORDER[grant.permission], str(grant)
