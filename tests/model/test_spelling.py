"""Words: near misses and text that is safe to print."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from remit.model.spelling import did_you_mean, shown, snake


@given(st.text())
def test_what_is_shown_is_printable_and_short(text: str) -> None:
    assert shown(text).isprintable()
    assert len(shown(text)) < 1300


def test_escapes_and_bidi_are_made_visible() -> None:
    assert shown("a\x1b[31m\u202eb") == "`a\\x1b[31m\\u202eb`"
    assert shown("a" * 200).endswith("...`")


@pytest.mark.parametrize(
    ("word", "key"),
    [("fileHandles", "file_handles"), ("maxHTTPSize", "max_http_size"), ("a-b", "a_b"), ("windowMs", "window_ms")],
)
def test_snake(word: str, key: str) -> None:
    assert snake(word) == key


def test_did_you_mean() -> None:
    assert did_you_mean("fileHandels", ["file_handles", "cpu"]) == "did you mean `file_handles`?"
    assert did_you_mean("zzz", ["b", "a"]) == "known: `a`, `b`"
    assert did_you_mean("zzz", []) == ""
