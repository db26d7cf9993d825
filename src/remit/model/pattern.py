"""Patterns over names: texts in which `*` stands for any run of characters, and several joined by `&`.

`AWS_*&*_REGION` matches what both match, so that patterns are closed under intersection and nothing has to be
approximated. There is no other wildcard.

The one fact that the algebra rests on: over an alphabet without bound, every text that `p` matches is matched by `q`
exactly when `q` matches the text of `p` itself, its `*` taken as a letter that only a `*` of `q` can match. (Put a
letter that is in neither pattern for each `*` of `p`; in `q` only a `*` can have taken it; a `*` takes anything else
too.) So containment is matching, and linear.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

__all__ = ["Pattern", "contains"]

_STARS = re.compile(r"\*{2,}")


def contains(glob: str, other: str) -> bool:
    """Whether all that `other` matches is matched by `glob`; `other` may be a plain text.

    Greedy: after a `*`, the leftmost fit of the next piece is always at least as good as a later one.
    """
    if "*" not in glob:
        return glob == other
    first, *middle, last = glob.split("*")
    if not (other.startswith(first) and other.endswith(last) and len(other) >= len(first) + len(last)):
        return False
    at, end = len(first), len(other) - len(last)
    for piece in middle:
        found = other.find(piece, at, end)
        if found < 0:
            return False
        at = found + len(piece)
    return True


def _compatible(globs: list[str]) -> bool:
    """Whether some text is matched by all of them.

    With a literal among them it is that one or none. Otherwise the longest head, every middle piece in turn, and the
    longest tail make such a text, as long as each head begins the longest and each tail ends it.
    """
    literals = [glob for glob in globs if "*" not in glob]
    if literals:
        return all(contains(glob, literals[0]) for glob in globs)
    head = max((glob.partition("*")[0] for glob in globs), key=len)
    tail = max((glob.rpartition("*")[2] for glob in globs), key=len)
    return all(head.startswith(glob.partition("*")[0]) and tail.endswith(glob.rpartition("*")[2]) for glob in globs)


@dataclass(frozen=True, slots=True)
class Pattern:
    """Globs that must all match.

    Attributes:
        globs: sorted, none of them containing another, never empty; made by `of`.
        paths: the globs are names and paths of programs: a glob without `/` matches names, one with `/` matches
            paths part by part (`*` does not reach over a `/`), and `*` alone matches both.
    """

    globs: tuple[str, ...]
    paths: bool = False

    @classmethod
    def of(cls, globs: Iterable[str], *, paths: bool = False) -> Pattern | None:
        """The pattern of all of `globs`, in canonical form; None when no text can match them all."""
        given = {_STARS.sub("*", glob) for glob in globs}
        least = [glob for glob in given if not any(o != glob and _contains(glob, o, paths=paths) for o in given)]
        if not _meet_somewhere(least, paths=paths):
            return None
        return cls(tuple(sorted(least)), paths)

    @property
    def literal(self) -> str | None:
        """The one text that matches, when there is only one."""
        return self.globs[0] if "*" not in self.globs[0] else None

    @property
    def universal(self) -> bool:
        """Whether it matches everything."""
        return self.globs == ("*",)

    def matches(self, text: str) -> bool:
        """Whether every glob matches `text`."""
        return all(_contains(glob, text, paths=self.paths) for glob in self.globs)

    def covers(self, other: Pattern) -> bool:
        """Whether each glob here contains one of `other`'s; so all that `other` matches is matched here."""
        return all(any(_contains(mine, its, paths=self.paths) for its in other.globs) for mine in self.globs)

    def meet(self, other: Pattern) -> Pattern | None:
        """What both match, or None."""
        return Pattern.of((*self.globs, *other.globs), paths=self.paths)

    def __str__(self) -> str:
        return "&".join(self.globs)


def _contains(glob: str, other: str, *, paths: bool) -> bool:
    if not paths or glob == "*":
        return contains(glob, other)
    mine, its = glob.split("/"), other.split("/")
    return len(mine) == len(its) and other != "*" and all(map(contains, mine, its))


def _meet_somewhere(globs: list[str], *, paths: bool) -> bool:
    if not paths:
        return _compatible(globs)
    split = [glob.split("/") for glob in globs]
    if len({len(parts) for parts in split}) != 1:
        return False
    return all(_compatible(list(column)) for column in zip(*split, strict=True))
