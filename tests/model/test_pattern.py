"""Patterns against an oracle: regular expressions, and every short text."""

from __future__ import annotations

import itertools
import re

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from remit.model.pattern import Pattern, contains

GLOBS = st.text(alphabet="ab*", min_size=1, max_size=6)
TEXTS = ["".join(letters) for size in range(7) for letters in itertools.product("abz", repeat=size)]


def matches(glob: str, text: str) -> bool:
    return re.fullmatch(".*".join(map(re.escape, glob.split("*"))), text, re.DOTALL) is not None


@given(GLOBS, st.text(alphabet="abz", max_size=8))
def test_matching_is_that_of_the_regular_expression(glob: str, text: str) -> None:
    assert contains(glob, text) == matches(glob, text)


@given(GLOBS, GLOBS)
def test_containment_is_that_of_the_texts(glob: str, other: str) -> None:
    # `z` is in no pattern, so it stands for every other letter; texts of 6 are long enough for globs of 6
    all_of_it = all(matches(glob, text) for text in TEXTS if matches(other, text))
    if contains(glob, other):
        assert all_of_it
    else:
        fresh = other.replace("*", "z")
        assert not matches(glob, fresh) or not all_of_it


@given(st.lists(GLOBS, min_size=1, max_size=3))
def test_a_pattern_matches_what_all_its_globs_match(globs: list[str]) -> None:
    pattern = Pattern.of(globs)
    together = [text for text in TEXTS if all(matches(glob, text) for glob in globs)]
    if pattern is None:
        assert together == []
    else:
        assert [text for text in TEXTS if pattern.matches(text)] == together
        assert Pattern.of(str(pattern).split("&")) == pattern


@given(st.lists(st.text(alphabet="ab*", min_size=1, max_size=3), min_size=1, max_size=2))
def test_a_pattern_that_is_made_can_match(globs: list[str]) -> None:
    pattern = Pattern.of(globs)
    assume(pattern is not None)
    assert pattern is not None
    assert any(pattern.matches(text) for text in TEXTS)


def test_what_can_never_match_is_no_pattern() -> None:
    assert Pattern.of(["a*", "b*"]) is None
    assert Pattern.of(["*a", "*b"]) is None
    assert Pattern.of(["a", "b"]) is None
    assert Pattern.of(["/usr/bin/a", "a"], paths=True) is None


def test_a_star_in_a_path_stays_within_its_part() -> None:
    pattern = Pattern.of(["/usr/bin/*"], paths=True)
    assert pattern is not None
    assert pattern.matches("/usr/bin/git")
    assert not pattern.matches("/usr/bin/sub/git")
    assert not pattern.matches("git")


def test_a_name_of_a_program_is_not_a_path() -> None:
    name = Pattern.of(["git"], paths=True)
    assert name is not None
    assert not name.matches("/data/git")


def test_a_star_alone_is_every_program() -> None:
    every = Pattern.of(["*"], paths=True)
    assert every is not None
    assert every.universal
    assert every.matches("git")
    assert every.matches("/opt/x/git")
    assert Pattern.of(["*", "/usr/bin/g*"], paths=True) == Pattern.of(["/usr/bin/g*"], paths=True)


@pytest.mark.parametrize("paths", [True, False])
def test_a_part_does_not_cover_the_whole(paths: bool) -> None:
    every, some = Pattern.of(["*"], paths=paths), Pattern.of(["g*"], paths=paths)
    assert every is not None
    assert some is not None
    assert every.covers(some)
    assert not some.covers(every)
