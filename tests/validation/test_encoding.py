from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from remit.errors import ValidationFailed
from remit.validation.encoding import check_size, check_text, decode, excerpt, utf8_size


@pytest.mark.parametrize(
    "data",
    [
        b"\xc0\xaf",  # overlong /
        b"\xe0\x80\xaf",
        b"\xf0\x80\x80\xaf",
        b"\xed\xa0\x80",  # a surrogate
        b"\xf4\x90\x80\x80",  # beyond U+10FFFF
        b"\xff",
        b"a\x80",
        b"\xe2\x82",  # cut
        b"\xef\xbb\xbfhello",
        "hello".encode("utf-16"),
        "hello".encode("utf-16-le"),
        "hello".encode("utf-32"),
        b"a\x00b",
        b"\x1b[31mred",
        b"\x7f",
        "\x85".encode(),
        "\ufdd0".encode(),
        "\ufffe".encode(),
        "\U0010ffff".encode(),
    ],
)
def test_what_is_not_clean_utf8_is_refused(data):
    with pytest.raises(ValidationFailed) as caught:
        decode(data, 1000, path="message")
    assert str(caught.value).startswith("message: ")
    assert str(caught.value).isprintable()


def test_utf16_is_named():
    for data in ("hello".encode("utf-16"), "hello".encode("utf-16-be")):
        with pytest.raises(ValidationFailed, match="UTF-16"):
            decode(data, 1000)


@pytest.mark.parametrize(
    "text", ["", "plain", "tab\tline\nreturn\r", "שלום", "नमस्ते", "👩‍👩‍👧‍👦", "a\u200db", "\u3000", "e\u0301"]
)
def test_what_people_write_passes_untouched(text):
    assert decode(text.encode(), 1000) == text
    assert decode(bytearray(text.encode()), 1000) == text
    assert decode(memoryview(text.encode()), 1000) == text


def test_size_is_counted_in_bytes_and_first():
    assert decode(b"x" * 10, 10) == "x" * 10
    with pytest.raises(ValidationFailed, match="at most 10"):
        decode(b"\xff" * 11, 10)
    check_size("é" * 5, 10, "")
    with pytest.raises(ValidationFailed, match="at most 9"):
        check_size("é" * 5, 9, "")
    assert utf8_size("\ud800") == 3


def test_controls_can_be_allowed_but_never_nul():
    assert decode(b"\x1b[0m", 100, controls=True) == "\x1b[0m"
    for data in (b"\x00", "\ufffe".encode()):
        with pytest.raises(ValidationFailed):
            decode(data, 100, controls=True)


@given(st.text(alphabet=st.characters(codec=None)))
def test_only_what_is_forbidden_is_refused(text):
    def forbidden(c):
        code = ord(c)
        return (
            (code < 0x20 and c not in "\t\n\r")
            or 0x7F <= code < 0xA0
            or 0xD800 <= code < 0xE000
            or 0xFDD0 <= code <= 0xFDEF
            or code & 0xFFFE == 0xFFFE
        )

    bad = text.startswith("\ufeff") or any(map(forbidden, text))
    if bad:
        with pytest.raises(ValidationFailed):
            check_text(text)
    else:
        check_text(text)


@given(st.text(alphabet=st.characters(codec=None)))
def test_an_excerpt_is_short_and_printable(text):
    shown = excerpt(text)
    assert shown.isprintable()
    assert len(excerpt("a" * 10_000)) <= 82
