from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from remit.jail.channel import FrameReader, NotPlain, ProtocolError, pack, unpack

TEXT = st.text(st.characters(exclude_categories=["Cs"]))
LEAVES = (
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXT | st.binary()
)
PLAIN = st.recursive(LEAVES, lambda inner: st.lists(inner) | st.dictionaries(TEXT, inner), max_leaves=40)
LIMIT = 1 << 20


def feed(data: bytes, pieces: list[int], limit: int = LIMIT) -> bytes | None:
    reader, frame, at = FrameReader(limit), None, 0
    for size in [*pieces, len(data)]:
        if at < len(data):
            frame = reader.feed(data[at : at + size])
            at += size
    return frame


def header(length: int, count: int = 0, magic: bytes = b"rmt1") -> bytes:
    return magic + length.to_bytes(4, "little") + count.to_bytes(4, "little")


@given(PLAIN)
def test_what_is_packed_comes_back(value: Any) -> None:
    assert unpack(pack(value)) == value


@given(PLAIN, st.lists(st.integers(1, 64), max_size=30))
def test_a_frame_in_pieces_is_the_same_frame(value: Any, pieces: list[int]) -> None:
    assert feed(pack(value), pieces) == pack(value)


@given(st.binary(max_size=400))
def test_noise_is_a_protocol_error_or_not_yet_a_frame(data: bytes) -> None:
    with pytest.raises(ProtocolError):
        unpack(data)
    try:
        frame = feed(data, [])
    except (ProtocolError, OverflowError):
        return
    if frame is not None:
        with pytest.raises(ProtocolError):
            unpack(frame)


@given(st.binary(max_size=300), st.lists(st.binary(max_size=20), max_size=4))
def test_any_text_in_a_sound_frame_is_plain_or_refused(text: bytes, sections: list[bytes]) -> None:
    lengths = b"".join(len(section).to_bytes(4, "little") for section in sections)
    frame = header(len(text), len(sections)) + lengths + text + b"".join(sections)
    assert feed(frame, []) == frame
    try:
        value = unpack(frame)
    except ProtocolError:
        return
    assert unpack(pack(value)) == value


@given(PLAIN, st.data())
def test_a_frame_that_was_touched_is_plain_or_refused(value: Any, data: st.DataObject) -> None:
    frame = bytearray(pack(value))
    for _ in range(data.draw(st.integers(1, 4))):
        frame[data.draw(st.integers(0, len(frame) - 1))] = data.draw(st.integers(0, 255))
    try:
        changed = unpack(bytes(frame))
    except ProtocolError:
        return
    assert unpack(pack(changed)) == changed


@given(PLAIN, st.binary(min_size=1, max_size=8))
def test_what_follows_a_frame_is_an_error(value: Any, more: bytes) -> None:
    with pytest.raises(ProtocolError):
        feed(pack(value) + more, [])
    reader = FrameReader(LIMIT)
    assert reader.feed(pack(value)) is not None
    with pytest.raises(ProtocolError):
        reader.feed(more)


@given(PLAIN, st.integers(1, 40))
def test_a_torn_frame_is_not_a_frame(value: Any, cut: int) -> None:
    frame = pack(value)
    torn = frame[: max(0, len(frame) - cut)]
    assert FrameReader(LIMIT).feed(torn) is None
    with pytest.raises(ProtocolError):
        unpack(torn)


@pytest.mark.parametrize("length", [LIMIT + 1, 1 << 31, (1 << 32) - 1])
def test_an_oversized_frame_is_known_from_its_header(length: int) -> None:
    with pytest.raises(OverflowError):
        FrameReader(LIMIT).feed(header(length))


def test_sections_count_towards_the_limit() -> None:
    with pytest.raises(OverflowError):
        FrameReader(LIMIT).feed(header(2, 2) + (LIMIT).to_bytes(4, "little") * 2)
    with pytest.raises(ProtocolError):
        FrameReader(LIMIT).feed(header(2, 1025))


@pytest.mark.parametrize("opening", [b"[", b'{"a":', b'{"$a":', b'[{"$":', b'{"$bytes":'])
@pytest.mark.parametrize("depth", [70, 300, 600, 5_000, 100_000])
def test_depth_is_bounded_however_it_is_made(opening: bytes, depth: int) -> None:
    closing = b"".join({91: b"]", 123: b"}"}[c] for c in reversed(opening) if c in b"[{")
    text = opening * depth + b"1" + closing * depth
    with pytest.raises(ProtocolError):
        unpack(header(len(text)) + text)


@pytest.mark.parametrize(
    "text",
    [
        b'{"a":1,"a":2}',
        b"NaN",
        b"-Infinity",
        b"1e999",
        b"-1e999",
        b'"\\ud800"',
        b'{"\\udfff":1}',
        b"9" * 5000,
        b"",
        b"{",
    ],
)
def test_what_strict_json_does_not_have_is_refused(text: bytes) -> None:
    with pytest.raises(ProtocolError):
        unpack(header(len(text)) + text)


def test_whole_characters_written_in_halves_are_text() -> None:
    text = json.dumps({"a": "\U0001f600"}).encode()
    assert b"\\ud83d" in text
    assert unpack(header(len(text)) + text) == {"a": "\U0001f600"}


@pytest.mark.parametrize(
    "text",
    [b'{"$bytes":0}', b'{"$bytes":-1}', b'{"$bytes":true}', b'{"$bytes":"0"}', b'{"$bytes":0.0}', b'{"$bytes":null}'],
)
def test_bytes_that_are_not_there_are_refused(text: bytes) -> None:
    with pytest.raises(ProtocolError):
        unpack(header(len(text)) + text)


def test_keys_that_look_like_markers_are_only_keys() -> None:
    for value in ({"$bytes": 0}, {"$": 1}, {"$$bytes": b"x"}, {"a": {"$bytes": "x", "b": b"y"}}):
        assert unpack(pack(value)) == value


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (math.nan, "nan"),
        (-math.inf, "inf"),
        ({1}, "builtins.set"),
        ({"a": [object()]}, "$.a[0]"),
        ({1: 2}, "key of type `int`"),
        ("\ud800", "surrogate"),
        pytest.param(10**5000, "4300", id="a number of 5001 digits"),
        ([b""] * 1025, "byte strings"),
    ],
)
def test_what_is_not_plain_is_named(value: Any, said: str) -> None:
    with pytest.raises(NotPlain, match=said.replace("$", r"\$").replace("[", r"\[")):
        pack(value)


def test_a_value_within_itself_is_not_plain() -> None:
    value: list[Any] = []
    value.append(value)
    with pytest.raises(NotPlain, match="nested"):
        pack(value)


def test_tuples_bytearrays_and_subclasses_become_plain() -> None:
    class Word(str):
        __slots__ = ()

    class Count(int):
        pass

    assert unpack(pack((1, bytearray(b"a"), memoryview(b"b"), Word("c"), Count(3)))) == [1, b"a", b"b", "c", 3]
